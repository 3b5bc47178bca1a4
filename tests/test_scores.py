"""Measures of promises, against their definitions."""

import torch

from kpnb.scores import calibration_curve


def test_a_call_under_another_default_device_spoils_no_later_one():
    mean, std, target = torch.zeros(50).double(), torch.ones(50).double(), torch.linspace(-2, 2, 50).double()
    try:
        with torch.device("meta"):
            calibration_curve(mean, std, target, levels=77)
    except (RuntimeError, NotImplementedError, ValueError):
        pass  # it has no values to work with
    expected, found = calibration_curve(mean, std, target, levels=77)
    assert expected.device.type == found.device.type == "cpu" and found[-1] == 1
