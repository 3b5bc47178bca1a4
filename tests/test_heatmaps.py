"""Targets: both axes, sizes and strides that do not fit, hidden points, and what an import costs."""

import math
import subprocess
import sys

import pytest
import torch
from heatmap_cases import (
    SIZE,
    default_device_changes_nothing,
    forgotten,
    hidden_points_change_nothing,
    target,
)

from kpnb import heatmaps
from kpnb.heatmaps import binary_heatmaps, gaussian_factors, gaussian_heatmaps

pytestmark = pytest.mark.usefixtures("same_weights")


def test_importing_heatmaps_is_cheap():
    "Who wants one Gaussian loads at most four modules of ours, and neither pandas nor matplotlib."
    script = "import sys, kpnb.heatmaps; print(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "kpnb.heatmaps" in loaded and len([name for name in loaded if name.startswith("kpnb.")]) <= 4
    heavy = {name.split(".")[0] for name in loaded} & {"pandas", "matplotlib", "torchvision", "ipywidgets"}
    assert not heavy


def test_sizes_and_strides_that_do_not_fit_are_refused():
    points = torch.tensor([[[20.0, 20.0]]])
    for draw in (
        lambda **k: gaussian_heatmaps(points, sigma=3.0, **k),
        lambda **k: binary_heatmaps(points, **k),
    ):
        for size in (0, (0, 64), (-64, 64), (64, 64, 3), (64.5, 64), (math.nan, 64), "64"):
            with pytest.raises(ValueError, match="size is .*; expected .height, width. in whole pixels"):
                draw(size=size)
        for stride in (0, -2, math.nan, math.inf, (4, 0), (4, 4, 4)):
            with pytest.raises(ValueError, match="stride is .*; expected a number above 0"):
                draw(size=64, stride=stride)
        for stride in (5, (4, 5), 1000):
            with pytest.raises(ValueError, match="does not fit a picture of 64×64 pixels"):
                draw(size=64, stride=stride)


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf])
def test_a_sigma_that_is_not_above_0_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma is .* expected a number above 0"):
        gaussian_heatmaps(torch.tensor([[[20.0, 20.0]]]), 64, sigma)


def test_other_silly_settings_are_refused_by_name():
    points = torch.tensor([[[20.0, 20.0]]])
    for use, message in ((lambda: binary_heatmaps(points, 64, radius=-1.0), "radius is -1.0"),):
        with pytest.raises(ValueError, match=message):
            use()


USES = {  # every public name whose call, or one of its methods, takes labels -> what it makes of a batch
    "binary_heatmaps": lambda b: binary_heatmaps(b["keypoints"], SIZE, 4, b["visible"], radius=5.0),
    "gaussian_heatmaps": target,
    "gaussian_factors": lambda b: torch.cat(
        gaussian_factors(b["keypoints"], SIZE, 6.0, 4, b["visible"])[:2], -1
    ),
}


def test_no_function_with_labels_is_forgotten_here():
    assert not forgotten(heatmaps, USES)


@pytest.mark.parametrize("name", USES)
def test_coordinates_of_hidden_points_change_nothing(name):
    hidden_points_change_nothing(USES[name])


def test_a_default_device_of_meta_changes_nothing_here_and_later():
    default_device_changes_nothing(USES)
