"""A cure that is fitted in pieces is the best one."""

import pytest
import torch
from mask_cases import case

from kpnb.confidences import nll
from kpnb.scaling import Scaler, TemperatureScaling, ensemble


def test_a_temperature_fitted_in_pieces_is_the_best_one():
    z, t = case(0, n=5, classes=6, size=200)
    T = TemperatureScaling().fit(z, t, places=10**9).temperature
    at = lambda T: float(nll(z.double() / T, t))
    assert at(T) <= min(at(1.001 * T), at(T / 1.001)) + 1e-9
    rows, labels = z.movedim(1, -1)[t != 255], t[t != 255]
    assert TemperatureScaling().fit(rows, labels, places=10**9).temperature == pytest.approx(T, rel=1e-6)
    assert TemperatureScaling().fit(z, t, places=500, seed=1).temperature == pytest.approx(
        TemperatureScaling().fit(rows, labels, places=500, seed=1).temperature, rel=1e-9
    )


def test_an_ensemble_of_half_precision_is_computed_in_float32():
    z = case(void=False)[0]
    torch.testing.assert_close(ensemble([z.half(), z.half()]), ensemble([z.half().float()] * 2))
    assert isinstance(TemperatureScaling(), Scaler)
