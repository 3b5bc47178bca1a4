"""What a network promises is reported as it gave it, and nobody's target is made up."""

import math

import pytest
import torch
from point_cases import data
from torch.distributions import Normal

from kpnb.gaussians import (
    Gaussians,
    constant_std,
    judge,
    predict_covariances,
    predict_gaussians,
    prediction_table,
)
from kpnb.uncertainty import GaussianNet


@pytest.mark.parametrize("sigma", [1e-6, 1e-4, 1.0, 54.0, 60.0, 1000.0, 1e6])
def test_judge_reports_the_nll_of_the_promise_itself(sigma):
    ds = data(n=40)
    noise = torch.randn(ds.keypoints.shape, generator=torch.Generator().manual_seed(1))
    mean = ds.keypoints.double() + sigma * noise
    promise = Gaussians(mean, torch.full_like(mean, sigma))
    right = -Normal(mean, promise.std).log_prob(ds.keypoints.double())[ds.visible].mean().item()
    assert judge(promise, ds)["nll"] == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("log_var", [-30.0, 12.0])
def test_a_networks_promise_is_reported_as_it_gave_it(log_var):
    model, ds = GaussianNet(5, (16, 16), start=log_var), data()
    assert predict_gaussians(model, ds).std.flatten().tolist() == pytest.approx(
        [8 * math.exp(log_var / 2)] * 60, rel=1e-5
    )
    model = GaussianNet(5, (16, 16), start=log_var, full=True)
    assert predict_covariances(model, ds)[1][0, 0, 0, 0].item() == pytest.approx(
        64 * math.exp(log_var), rel=1e-5
    )


def test_a_table_of_predictions_has_no_target_where_nobody_saw_one():
    ds = data(odd=0.0)
    table = prediction_table(Gaussians(ds.keypoints, torch.ones(6, 5, 2)), ds)
    hidden = table[~table["visible"]]
    assert (
        len(hidden)
        and hidden[["x_target (px)", "y_target (px)", "x_error (px)", "error (px)"]].isna().all().all()
    )
    assert table[table["visible"]].notna().all().all()


def test_a_point_that_nobody_saw_has_no_constant_std():
    ds = data(n=6)
    ds.visible[:, 3] = False
    std = constant_std(Gaussians(ds.keypoints + 1, torch.ones(6, 5, 2)), ds)
    assert std[3].isnan().all() and std[[0, 1, 2, 4]].flatten().tolist() == pytest.approx([1.0] * 8, rel=1e-5)
