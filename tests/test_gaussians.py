"""What a network promises is reported as it gave it, and nobody's target is made up."""

import math

import pytest
import torch
from torch.distributions import Normal

from kpnb.gaussians import (
    Gaussians,
    MapCrossEntropy,
    constant_std,
    judge,
    map_covariance,
    predict_covariances,
    predict_gaussians,
    prediction_table,
)
from kpnb.geometry import KeypointDataset
from kpnb.uncertainty import GaussianNet


def data(seed=0, odd=None, n=6, k=5, size=16):
    "Pictures with some hidden points, whose coordinates are `odd`."
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, k, 2, generator=g) * (size - 2) + 1
    visible = torch.rand(n, k, generator=g) < 0.7
    if odd is not None:
        points = torch.where(visible[..., None], points, odd)
    images = torch.randint(0, 255, (n, 1, size, size), generator=g).byte()
    return KeypointDataset(images, points, visible, meta={"yaw": torch.zeros(n), "blur": torch.ones(n)})


def batch_of(ds):
    return next(iter(ds.batches(len(ds), device="cpu")))


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


def test_maps_that_are_probabilities_already_are_refused():
    maps = 3 * torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    shares, ds = maps.flatten(2).softmax(-1).view_as(maps), data(n=2)
    for call in (lambda m: map_covariance(m, 4), lambda m: MapCrossEntropy()(m, batch_of(ds))):
        call(maps)
        call(maps.abs())  # logits need not be below 0
        with pytest.raises(ValueError, match="probabilities"):
            call(shares)


def test_a_point_that_nobody_saw_has_no_constant_std():
    ds = data(n=6)
    ds.visible[:, 3] = False
    std = constant_std(Gaussians(ds.keypoints + 1, torch.ones(6, 5, 2)), ds)
    assert std[3].isnan().all() and std[[0, 1, 2, 4]].flatten().tolist() == pytest.approx([1.0] * 8, rel=1e-5)


def test_votes_and_spreads_see_the_stride_of_each_axis():
    logits = 4 * torch.randn(
        1, 1, 6, 4, generator=torch.Generator().manual_seed(0)
    )  # 24 pixels down, 32 across: strides 4 and 8
    mean, covariance = map_covariance(logits, (4.0, 8.0))
    p = logits.flatten(2).softmax(-1)[0, 0].double()
    at = torch.stack(
        [8.0 * (torch.arange(4) + 0.5).repeat(6), 4.0 * (torch.arange(6) + 0.5).repeat_interleave(4)], -1
    ).double()
    torch.testing.assert_close(mean[0, 0].double(), p @ at, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        covariance[0, 0].double(), torch.cov(at.T, correction=0, aweights=p), rtol=1e-4, atol=1e-3
    )
    point = torch.tensor([[[13.0, 7.0]]])
    batch = {"image": torch.zeros(1, 1, 24, 32), "keypoints": point, "visible": torch.ones(1, 1).bool()}
    votes = torch.exp(-((at - point[0, 0]) ** 2).sum(-1) / (2 * 5.0**2))
    right = -(votes / votes.sum() * p.log()).sum()
    assert MapCrossEntropy(5.0)(logits, batch).item() == pytest.approx(right.item(), rel=1e-4)
