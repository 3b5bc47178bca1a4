"""Numbers about a network: points that cannot be seen change nothing, and no metric hides another."""

import math

import numpy as np
import pytest
import torch
from small_training import dots, net, once, train
from torch import nn

from kpnb.evaluation import evaluate, masked_mean, mean_points, point_mse, predict, r_and_skill
from kpnb.keypoints import KeypointDataset


@pytest.mark.parametrize("name", ["mse", "loss", "R", "skill", "error_px", "n_ignored"])
def test_a_metric_may_not_take_the_name_of_a_number_that_is_there(name):
    metrics = {name: lambda o, b: 1000.0}
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        evaluate(net(), dots(), metrics=metrics)
    model = net()
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        train(model=model, valid=dots(), metrics=metrics)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), net().parameters())), (
        "before the first step"
    )


def test_metrics_are_names_and_functions():
    for wrong in ({"a": 1.0}, {3: once}, [once]):
        with pytest.raises(ValueError, match="metrics"):
            evaluate(net(), dots(), metrics=wrong)


def test_a_metric_that_fails_leaves_the_session_as_it_was():
    def broken(output, batch):
        raise KeyError("broken")

    model = net()
    for look in (
        lambda: evaluate(model, dots(), metrics={"a": broken}),
        lambda: predict(model, dots(), decode=broken),
    ):
        with pytest.raises(KeyError) as kept:  # as a notebook keeps the last error, with all its frames
            look()
        assert torch.is_grad_enabled() and model.training, kept


def test_whole_number_coordinates_give_the_results_of_floats():
    g = torch.Generator().manual_seed(0)
    for _ in range(10):
        pred, kp = torch.randint(0, 30, (2, 7, 3, 2), generator=g)
        seen = torch.rand(7, 3, generator=g) < 0.8
        mean = mean_points(kp, seen)
        assert mean.is_floating_point()
        assert torch.allclose(mean, mean_points(kp.float(), seen), equal_nan=True)
        assert r_and_skill(pred, kp, seen) == pytest.approx(
            r_and_skill(pred.float(), kp.float(), seen), nan_ok=True
        )
        train_mean = torch.rand(3, 2, generator=g) * 30
        assert r_and_skill(pred, kp, seen, train_mean) == pytest.approx(
            r_and_skill(pred.float(), kp.float(), seen, train_mean), nan_ok=True
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masked_mean_of_half_precision_does_not_overflow(dtype):
    values = torch.full((40, 100), 600.0, dtype=dtype, requires_grad=True)
    seen = torch.ones(40, 100, dtype=torch.bool)
    mean = masked_mean(values, seen)
    mean.backward()
    assert (
        mean.dtype == dtype
        and mean.item() == 600
        and values.grad.isfinite().all()
        and (values.grad > 0).all()
    )
    assert (
        float(masked_mean(torch.ones(400, 200, dtype=dtype), torch.ones(400, 200, dtype=torch.bool))) == 1
    ), "more than 65504 of them"
    assert float(
        masked_mean(torch.tensor([[1, 2], [4, 9]]), torch.tensor([[True, True], [True, False]]))
    ) == pytest.approx(7 / 3)


class Answer(nn.Module):
    "a network that answers what it is told"

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x):
        return self.answer


def test_coordinates_of_points_that_are_not_visible_change_nothing():
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        ds = dots(6, seed=int(torch.randint(99, (1,), generator=g)), points=3)
        seen = torch.rand(6, 3, generator=g) < 0.6
        seen[0, 0], seen[1, 0], answer = True, True, torch.randn(6, 3, 2, generator=g)
        found = []
        for place in (math.nan, 0.0, -1.0, 1e9, math.inf):
            kp = torch.where(seen[..., None], ds.keypoints, place)
            out = torch.where(seen[..., None], answer, place)
            data = KeypointDataset(ds.images, kp, seen)
            batch = {"image": ds.images, "keypoints": kp, "visible": seen}
            points, mean = predict(Answer(out), data), mean_points(kp, seen)
            found.append(
                [
                    float(masked_mean(kp[..., 0], seen)),
                    float(point_mse(out, batch)),
                    *mean.flatten().tolist(),
                    *r_and_skill(points, kp, seen),
                    *r_and_skill(points, kp, seen, torch.full((3, 2), 4.0)),
                    *evaluate(Answer(out), data).values(),
                ]
            )
        for other in found[1:]:
            assert np.array_equal(found[0], other, equal_nan=True)
