"""Maps and their spread: logits only, and the stride of each axis."""

import pytest
import torch
from point_cases import batch_of, data

from kpnb.map_spread import MapCrossEntropy, map_covariance


def test_maps_that_are_probabilities_already_are_refused():
    maps = 3 * torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    shares, ds = maps.flatten(2).softmax(-1).view_as(maps), data(n=2)
    for call in (lambda m: map_covariance(m, 4), lambda m: MapCrossEntropy()(m, batch_of(ds))):
        call(maps)
        call(maps.abs())  # logits need not be below 0
        with pytest.raises(ValueError, match="probabilities"):
            call(shares)


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
