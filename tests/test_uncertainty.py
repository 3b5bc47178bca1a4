"""Scores are exact at any scale, and what cannot be seen changes no number of `kpnb.uncertainty`."""

import inspect
import math

import pandas as pd
import pytest
import torch
from torch.distributions import Laplace, MultivariateNormal, Normal, StudentT

import kpnb.uncertainty as module
from kpnb.backbones import PointGaussian
from kpnb.geometry import KeypointDataset
from kpnb.training import fit
from kpnb.uncertainty import (
    LOG_VAR,
    LOSSES,
    PROJECT,
    DistributionLoss,
    GaussianNet,
    Gaussians,
    MapCrossEntropy,
    against_truth,
    beta_nll,
    calibration_curve,
    cholesky_covariance,
    cholesky_nll,
    constant_std,
    decode_mean,
    faithful_nll,
    gaussian_nll,
    interval95,
    judge,
    label_sigma,
    laplace_nll,
    laplace_std,
    map_covariance,
    mc_dropout,
    mix,
    noisy_labels,
    predict_covariances,
    predict_gaussians,
    prediction_table,
    real_faces,
    student_nll,
    train_uncertain,
    write_predictions,
)

ODD = {
    "nan": math.nan,
    "zero": 0.0,
    "minus one": -1.0,
    "far": 1e9,
}  # what files write for a point that nobody saw


def draws(seed, n=400):
    "Means, targets a few σ away, and σ from 1e-6 to 1e6."
    g = torch.Generator().manual_seed(seed)
    sigma = 10 ** (12 * torch.rand(n, generator=g, dtype=torch.float64) - 6)
    mean = 100 * torch.randn(n, generator=g, dtype=torch.float64)
    return mean, sigma, mean + 3 * sigma * torch.randn(n, generator=g, dtype=torch.float64)


def data(seed=0, odd=None, n=6, k=5, size=16):
    "Pictures with some hidden points, whose coordinates are `odd`."
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, k, 2, generator=g) * (size - 2) + 1
    visible = torch.rand(n, k, generator=g) < 0.7
    if odd is not None:
        points = torch.where(visible[..., None], points, odd)
    images = torch.randint(0, 255, (n, 1, size, size), generator=g).byte()
    return KeypointDataset(images, points, visible, meta={"yaw": torch.zeros(n), "blur": torch.ones(n)})


@pytest.mark.parametrize("seed", range(5))
def test_likelihoods_agree_with_torch_for_every_sigma(seed):
    mean, sigma, target = draws(seed)
    ours = gaussian_nll(mean, 2 * sigma.log(), target)
    torch.testing.assert_close(ours, -Normal(mean, sigma).log_prob(target), rtol=1e-9, atol=1e-9)
    ours = laplace_nll(mean, sigma.log(), target)
    torch.testing.assert_close(ours, -Laplace(mean, sigma).log_prob(target), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(laplace_std(sigma.log()), Laplace(mean, sigma).stddev, rtol=1e-9, atol=0)
    for df in (1.0, 4.0, 30.0):
        ours = student_nll(mean, sigma.log(), target, df)
        torch.testing.assert_close(ours, -StudentT(df, mean, sigma).log_prob(target), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_cholesky_likelihood_agrees_with_torch_for_every_sigma(seed):
    (mean, sigma, _), (other, tau, _) = draws(seed), draws(seed + 100)
    lean = torch.randn(len(sigma), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lower = torch.zeros(len(sigma), 2, 2, dtype=torch.float64)
    lower[:, 0, 0], lower[:, 1, 0], lower[:, 1, 1] = sigma, lean * tau, tau
    raw, mean = torch.stack([sigma.log(), lean * tau, tau.log()], -1), torch.stack([mean, other], -1)
    noise = torch.randn(
        len(sigma), 2, 1, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    target = mean + (lower @ noise)[..., 0]
    theirs = -MultivariateNormal(mean, scale_tril=lower).log_prob(target)
    torch.testing.assert_close(cholesky_nll(mean, raw, target), theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cholesky_covariance(raw), lower @ lower.mT, rtol=1e-9, atol=0)


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


def test_the_watched_nll_of_a_training_is_exact():
    model, ds = GaussianNet(5, (16, 16), start=-20.0), data(n=12)
    history = train_uncertain(model, ds, ds, "gnll", epochs=1, lr=1e-12, progress=False)
    promise = predict_gaussians(model, ds)
    nats = -Normal(promise.mean.double() / 8, math.exp(-10)).log_prob(
        ds.keypoints.double() / 8
    )  # σ from the head's start, in halves of the picture
    assert history["valid_nll"][0] == pytest.approx(nats[ds.visible].mean().item(), rel=1e-3)


@pytest.mark.parametrize("f", [gaussian_nll, beta_nll, faithful_nll, laplace_nll, student_nll, cholesky_nll])
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_a_training_is_protected_from_extreme_promises(f, extreme):
    second = torch.full((2, 3, 3 if f is cholesky_nll else 2), extreme)
    if f is cholesky_nll:
        second[..., 1] = 1.0
    mean, second = torch.full((2, 3, 2), 1e5).requires_grad_(), second.requires_grad_()
    batch = {
        "image": torch.zeros(2, 1, 8, 8),
        "keypoints": torch.full((2, 3, 2), 4.0),
        "visible": torch.ones(2, 3).bool(),
    }
    loss = DistributionLoss(f)((mean, second), batch)
    loss.backward()
    assert loss.isfinite() and mean.grad.isfinite().all() and second.grad.isfinite().all()


def a_net(**kw):
    torch.manual_seed(0)
    return GaussianNet(5, (16, 16), **kw)


def numbers(table):
    return torch.tensor(table.drop(columns=["name", "keypoint"]).to_numpy(float)).nan_to_num(-7.0)


def written(pred, ds, folder):
    write_predictions(folder / "points.csv", pred, ds)
    return numbers(pd.read_csv(folder / "points.csv"))


def batch_of(ds):
    return next(iter(ds.batches(len(ds), device="cpu")))


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
    public = [n for n in module.__all__ if callable(getattr(module, n)) and not n.startswith("check_")]
    assert {n for n in public if meets_points(getattr(module, n))} == set(CALLS) | set(ONLY_LABELS)


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


@pytest.mark.parametrize("name", LOSSES)
def test_an_answer_that_is_not_finite_at_a_hidden_point_spoils_no_gradient(name):
    ds = data(odd=math.nan)
    hidden = ~ds.visible[..., None]
    mean = torch.where(hidden, math.nan, torch.zeros(6, 5, 2)).requires_grad_()
    second = torch.where(hidden, math.inf, torch.zeros(6, 5, 3 if name == "full" else 2)).requires_grad_()
    LOSSES[name](PointGaussian(mean, second), batch_of(ds)).backward()
    for g in (mean.grad, second.grad):
        assert g is None or (g.isfinite().all() and (g[hidden[..., 0]] == 0).all())


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


def test_an_ensemble_of_half_precision_does_not_overflow():
    members = [
        Gaussians(torch.full((1, 1, 2), v).half(), torch.full((1, 1, 2), 400.0).half()) for v in (0.0, 600.0)
    ]
    got = mix(members)
    assert (got.mean[0, 0, 0].item(), got.aleatoric[0, 0, 0].item(), got.epistemic[0, 0, 0].item()) == (
        300.0,
        160000.0,
        90000.0,
    )


def test_intervals_use_the_exact_quantiles_of_student():
    exact = {
        1: 12.706204736,
        2: 4.302652730,
        4: 2.776445105,
        5: 2.570581836,
        10: 2.228138852,
        11: 2.200985160,
        30: 2.042272456,
        100: 1.983971519,
        1000: 1.962339081,
    }
    for df, t in exact.items():
        values = torch.randn(df + 1, generator=torch.Generator().manual_seed(df), dtype=torch.float64)
        mean, half = interval95(values.tolist())
        assert mean == pytest.approx(values.mean().item())
        assert half == pytest.approx(t * values.std().item() / math.sqrt(df + 1), rel=1e-8)


def small_parts():
    return data(1, n=12), data(2, n=6), data(3, n=6)


def test_real_faces_with_the_projects_settings_trains_as_the_project_did():
    train, apart, held = small_parts()
    got = real_faces(
        parts=(train, apart, held), kinds=("gnll",), **(PROJECT | dict(epochs=2, batch_size=4, lr=1e-2))
    )
    from kpnb.core import seed_everything

    seed_everything(0)
    model = GaussianNet(5, (16, 16))
    how = dict(
        optimizer="adam",
        weight_decay=0.0,
        schedule=None,
        augment=None,
        patience=20,
        fast=False,
        progress=False,
    )
    score = DistributionLoss(gaussian_nll, bounds=None)
    fit(
        model,
        train,
        apart,
        loss=DistributionLoss(),
        decode=decode_mean,
        metrics={"nll": score},
        monitor="valid_nll",
        mode="min",
        epochs=2,
        batch_size=4,
        lr=1e-2,
        seed=0,
        **how,
    )
    error = (predict_gaussians(model, held).mean - held.keypoints).norm(dim=-1)[held.visible].mean().item()
    assert got["error_px"][0] == pytest.approx(error, abs=1e-6)


def test_real_faces_does_not_take_rows_of_other_settings_for_its_own(tmp_path):
    how = dict(parts=small_parts(), kinds=("rmse",), folder=tmp_path, epochs=1)
    first = real_faces(**how)
    pd.testing.assert_frame_equal(real_faces(**how), first)
    with pytest.raises(ValueError, match=r"lfpw-small-0-0\.csv.*lr=0\.1"):
        real_faces(**how, lr=0.1)


def test_the_bounds_of_a_training_are_named():
    assert LOG_VAR[0] < 0 < LOG_VAR[1] and "LOG_VAR" not in repr(DistributionLoss())
    assert "bounds=None" in repr(DistributionLoss(bounds=None))


def test_sides_without_pairs_are_not_guessed():
    ds = data(1, n=12, k=2)
    ds.keypoint_names = ["left_eye", "right_eye"]
    with pytest.raises(ValueError, match="left_eye"):
        label_sigma(ds)
    with pytest.raises(ValueError, match="left and right"):
        real_faces(parts=(ds, ds, ds), kinds=("rmse",), epochs=1)
    ds.pairs = [(0, 1)]
    assert label_sigma(ds).shape == (12, 2)


def test_a_point_that_nobody_saw_has_no_constant_std():
    ds = data(n=6)
    ds.visible[:, 3] = False
    std = constant_std(Gaussians(ds.keypoints + 1, torch.ones(6, 5, 2)), ds)
    assert std[3].isnan().all() and std[[0, 1, 2, 4]].flatten().tolist() == pytest.approx([1.0] * 8, rel=1e-5)


def test_a_call_under_another_default_device_spoils_no_later_one():
    mean, std, target = torch.zeros(50).double(), torch.ones(50).double(), torch.linspace(-2, 2, 50).double()
    try:
        with torch.device("meta"):
            calibration_curve(mean, std, target, levels=77)
    except (RuntimeError, NotImplementedError, ValueError):
        pass  # it has no values to work with
    expected, found = calibration_curve(mean, std, target, levels=77)
    assert expected.device.type == found.device.type == "cpu" and found[-1] == 1


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
