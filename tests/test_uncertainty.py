"""What cannot be seen changes no number of lesson 30 and of the pages that it uses."""

import inspect
import math

import pandas as pd
import pytest
import torch
from point_cases import batch_of, data
from torch.distributions import Normal

import kpnb.ensembles as ensembles
import kpnb.gaussians as gaussians
import kpnb.likelihood as likelihood
import kpnb.map_spread as map_spread
import kpnb.scores as scores
import kpnb.uncertainty as uncertainty
from kpnb.ensembles import mc_dropout
from kpnb.gaussians import (
    Gaussians,
    against_truth,
    constant_std,
    decode_mean,
    judge,
    predict_covariances,
    predict_gaussians,
    prediction_table,
    write_predictions,
)
from kpnb.likelihood import LOSSES, DistributionLoss, laplace_nll, student_nll
from kpnb.map_spread import MapCrossEntropy
from kpnb.uncertainty import GaussianNet, label_sigma, noisy_labels, train_uncertain

MODULES = (uncertainty, likelihood, scores, gaussians, ensembles, map_spread)
ODD = {
    "nan": math.nan,
    "zero": 0.0,
    "minus one": -1.0,
    "far": 1e9,
}  # what files write for a point that nobody saw


def test_the_watched_nll_of_a_training_is_exact():
    model, ds = GaussianNet(5, (16, 16), start=-20.0), data(n=12)
    history = train_uncertain(model, ds, ds, "gnll", epochs=1, lr=1e-12, progress=False)
    promise = predict_gaussians(model, ds)
    nats = -Normal(promise.mean.double() / 8, math.exp(-10)).log_prob(
        ds.keypoints.double() / 8
    )  # σ from the head's start, in halves of the picture
    assert history["valid_nll"][0] == pytest.approx(nats[ds.visible].mean().item(), rel=1e-3)


def a_net(**kw):
    torch.manual_seed(0)
    return GaussianNet(5, (16, 16), **kw)


def numbers(table):
    return torch.tensor(table.drop(columns=["name", "keypoint"]).to_numpy(float)).nan_to_num(-7.0)


def written(pred, ds, folder):
    write_predictions(folder / "points.csv", pred, ds)
    return numbers(pd.read_csv(folder / "points.csv"))


def all_losses(ds, p):
    mean, log_var, full = p.mean / 8 - 1, 2 * p.std.log(), torch.cat([p.std.log(), p.std[..., :1]], -1)
    losses = [
        *LOSSES.items(),
        ("laplace", DistributionLoss(laplace_nll)),
        ("student", DistributionLoss(student_nll)),
    ]
    return torch.stack([f((mean, full if name == "full" else log_var), batch_of(ds)) for name, f in losses])


def noisy(ds):
    got = noisy_labels(ds, torch.full(ds.visible.shape, 0.01), 0)
    return torch.cat([got.visible.flatten().double(), got.keypoints[got.visible].flatten()])


def counted_points(found):
    return torch.tensor([v for v in found.values()], dtype=torch.float64)


# name of each public function or class that meets hidden points -> (data set, answers, folder) -> numbers
CALLS = {
    "noisy_labels": lambda ds, p, f: noisy(ds),
    "label_sigma": lambda ds, p, f: label_sigma(ds),
    "constant_std": lambda ds, p, f: constant_std(p, ds),
    "judge": lambda ds, p, f: counted_points(judge(p, ds)),
    "Gaussians": lambda ds, p, f: torch.stack(p.flat(ds)),
    "against_truth": lambda ds, p, f: torch.tensor(
        [
            against_truth(
                p, 1 + torch.rand(ds.visible.shape, generator=torch.Generator().manual_seed(0)), ds.visible
            )[c]
            for c in ("correlation", "ratio")
        ]
    ),
    "DistributionLoss": lambda ds, p, f: all_losses(ds, p),
    "RootMeanSquare": lambda ds, p, f: LOSSES["rmse"]((p.mean / 8 - 1, p.std), batch_of(ds)),
    "MapCrossEntropy": lambda ds, p, f: MapCrossEntropy()(
        torch.where(
            torch.isfinite(p.mean.sum(-1))[..., None, None],
            p.mean.sum(-1)[..., None, None] * torch.linspace(-1, 1, 16).view(4, 4),
            math.nan,
        ),
        batch_of(ds),
    ),
}
ONLY_LABELS = {  # these answer for hidden points too, so only the labels are odd here
    "prediction_table": lambda ds, p, f: numbers(prediction_table(p, ds)),
    "write_predictions": lambda ds, p, f: written(p, ds, f),
    "decode_mean": lambda ds, p, f: decode_mean((p.mean, p.std), batch_of(ds)),
    "predict_gaussians": lambda ds, p, f: predict_gaussians(a_net(), ds).mean,
    "predict_covariances": lambda ds, p, f: predict_covariances(a_net(full=True), ds)[1],
    "mc_dropout": lambda ds, p, f: mc_dropout(a_net(dropout=0.5), ds, 2)[1].mean,
}


def meets_points(thing):
    "Whether a function, or a class by a method, takes a data set, a batch, or which points are visible."
    methods = (
        [m for m in vars(thing).values() if inspect.isfunction(m)] if inspect.isclass(thing) else [thing]
    )
    return any({"visible", "ds", "batch"} & set(inspect.signature(m).parameters) for m in methods)


def test_every_public_function_that_meets_hidden_points_is_tested_here():
    public = [(n, getattr(m, n)) for m in MODULES for n in m.__all__ if callable(getattr(m, n))]
    assert {n for n, thing in public if meets_points(thing)} == set(CALLS) | set(ONLY_LABELS)


@pytest.mark.parametrize("name", [*CALLS, *ONLY_LABELS])
@pytest.mark.parametrize("seed", range(2))
def test_hidden_points_change_no_number(name, seed, tmp_path):
    call = CALLS.get(name) or ONLY_LABELS[name]
    plain = data(seed)
    g = torch.Generator().manual_seed(seed)
    pred = Gaussians(
        plain.keypoints + torch.randn(6, 5, 2, generator=g), 0.5 + torch.rand(6, 5, 2, generator=g)
    )
    right = call(plain, pred, tmp_path)
    for odd in ODD.values():
        ds = data(seed, odd)
        torch.testing.assert_close(call(ds, pred, tmp_path), right)
        if name in ONLY_LABELS:
            continue
        seen = ds.visible[..., None]
        torch.testing.assert_close(
            call(
                ds, Gaussians(torch.where(seen, pred.mean, odd), torch.where(seen, pred.std, odd)), tmp_path
            ),
            right,
        )


def test_sides_without_pairs_are_not_guessed():
    ds = data(1, n=12, k=2)
    ds.keypoint_names = ["left_eye", "right_eye"]
    with pytest.raises(ValueError, match="left_eye"):
        label_sigma(ds)
    ds.pairs = [(0, 1)]
    assert label_sigma(ds).shape == (12, 2)
