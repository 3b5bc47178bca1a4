"""What cannot be seen changes no number of lessons 30 to 32 and of the pages that they use; their network."""

import inspect
import math

import pandas as pd
import pytest
import torch
from torch.distributions import Normal

import kpnb.ensembles as ensembles
import kpnb.gaussians as gaussians
import kpnb.label_noise as label_noise
import kpnb.likelihood as likelihood
import kpnb.map_spread as map_spread
import kpnb.scores as scores
import kpnb.uncertainty as uncertainty
from kpnb.backbones import ResNet18Gaussian
from kpnb.ensembles import mc_dropout
from kpnb.evidence import evidence
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
from kpnb.geometry import normalise
from kpnb.keypoints import KeypointDataset
from kpnb.label_noise import label_sigma, noisy_labels
from kpnb.likelihood import (
    LOSSES,
    DistributionLoss,
    cholesky_covariance,
    cholesky_nll,
    gaussian_entropy,
    gaussian_nll,
    laplace_nll,
    student_nll,
)
from kpnb.map_spread import MapCrossEntropy
from kpnb.scores import coverage, fit_scale
from kpnb.uncertainty import GaussianNet, freeze_mean, train_uncertain

MODULES = (uncertainty, label_noise, likelihood, scores, gaussians, ensembles, map_spread)
ODD = {
    "nan": math.nan,
    "zero": 0.0,
    "minus one": -1.0,
    "far": 1e9,
}  # what files write for a point that nobody saw


def data(seed=0, odd=None, n=6, k=5, size=16):
    "Pictures with some hidden points, whose coordinates are `odd`."
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, k, 2, generator=g) * (size - 2) + 1
    visible = torch.rand(n, k, generator=g) < 0.7
    if odd is not None:
        points = torch.where(visible[..., None], points, odd)
    images = torch.randint(0, 255, (n, 1, size, size), generator=g).byte()
    return KeypointDataset(images, points, visible, meta={"yaw": torch.zeros(n), "blur": torch.ones(n)})


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
    public = [(n, getattr(m, n)) for m in MODULES for n in m.__all__ if callable(getattr(m, n))]
    public.append(("label_sigma", label_sigma))
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


# ---- the network with two heads


def test_a_network_answers_with_means_and_log_variances_of_any_size():
    net = GaussianNet(3, (16, 24), in_channels=3)
    out = net(torch.rand(2, 3, 16, 24))
    assert (out.mean.shape, out.log_var.shape) == ((2, 3, 2), (2, 3, 2))
    assert (out.log_var == -5).all()
    at = decode_mean(out, {"image": torch.rand(2, 3, 16, 24)})[0, 0]
    torch.testing.assert_close(at, (out.mean[0, 0] + 1) * torch.tensor([12.0, 8.0]))
    with pytest.raises(ValueError, match="multiples of 8"):
        GaussianNet(size=(50, 48))


def test_a_start_is_promised_everywhere_in_pixels():
    net = GaussianNet(5, (16, 16), start=0.0)
    assert torch.allclose(predict_gaussians(net, data()).std, torch.full((6, 5, 2), 8.0), atol=1e-5)


def test_the_losses_are_means_over_the_visible_points():
    net, batch = GaussianNet(3, (16, 24), in_channels=3), {"image": torch.rand(2, 3, 16, 24)}
    batch["keypoints"] = torch.rand(2, 3, 2) * 16
    batch["visible"] = torch.tensor([[True, True, False], [True, False, True]])
    batch["keypoints"][0, 2] = math.nan
    seen, out = batch["visible"], net(batch["image"])
    unit = normalise(batch["keypoints"], (16, 24))[seen]
    for name, by_hand in {
        "gnll": gaussian_nll(out.mean[seen], out.log_var[seen], unit).mean(),
        "mse": (out.mean[seen] - unit).pow(2).mean(),
        "rmse": (out.mean[seen] - unit).pow(2).mean().sqrt(),
    }.items():
        torch.testing.assert_close(LOSSES[name](out, batch), by_hand)
    assert LOSSES["gnll"].batch_weight(batch) == 4
    for name in ("rmse", "mse", "gnll", "beta", "faithful"):
        net.zero_grad()
        LOSSES[name](net(batch["image"]), batch).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters()), name


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss is 'l2'"):
        train_uncertain(a_net(), data(), data(), "l2")


def test_a_detached_second_head_leaves_the_shared_layers_alone():
    net, batch = a_net(detach=True).train(), batch_of(data())
    LOSSES["faithful"](net(batch["image"]), batch).backward()
    with_head = [p.grad.clone() for p in net.body.parameters()]
    net.zero_grad()
    (0.5 * LOSSES["mse"](net(batch["image"]), batch)).backward()
    for a, b in zip(with_head, net.body.parameters()):
        torch.testing.assert_close(a, b.grad)


def trained_head(model, ds, loss="gnll"):
    "A copy with a frozen mean after a step of its second head."
    frozen = freeze_mean(model, full=loss == "full").train()
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in frozen.parameters() if p.requires_grad], lr=0.1)
    batch = batch_of(ds)
    LOSSES[loss](frozen(batch["image"]), batch).backward()
    optimizer.step()
    return frozen, {k for k, v in frozen.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize("loss", ["gnll", "full"])
def test_a_head_afterwards_changes_no_mean(loss):
    model = a_net()
    frozen, changed = trained_head(model, data(), loss)
    assert changed and all(k.startswith("spread.") for k in changed)
    before, after = model.eval(), frozen.eval()
    images = data().images / 255
    assert torch.equal(before(images).mean, after(images).mean)
    if loss == "gnll":
        assert (before(images).log_var != after(images).log_var).any()


def test_a_frozen_resnet_learns_its_second_head_alone():
    ds = data(size=32)
    _, changed = trained_head(ResNet18Gaussian(5, in_channels=1), ds)
    assert changed == {"log_var.weight", "log_var.bias"}
    with pytest.raises(ValueError, match="needs a GaussianNet"):
        freeze_mean(ResNet18Gaussian(5, in_channels=1), full=True)


def test_covariances_are_in_pixels_of_wide_pictures():
    net, ds = GaussianNet(5, (48, 96), full=True, start=-3.0), data(n=2)
    wide = KeypointDataset(torch.zeros(2, 1, 48, 96).byte(), ds.keypoints, ds.visible)
    cov = predict_covariances(net, wide)[1]
    upright = torch.diag(torch.tensor([48.0**2, 24.0**2]) * math.exp(-3)).expand(2, 5, 2, 2)
    torch.testing.assert_close(cov, upright)  # half the width and half the height
    with torch.no_grad():
        net.spread[-1].bias.view(5, 3)[:] = torch.tensor([0.2, -0.7, -0.4])
    lower = torch.tensor([[math.exp(0.2) * 48, 0], [-0.7 * 24, math.exp(-0.4) * 24]])
    found = predict_covariances(net, wide)[1]
    torch.testing.assert_close(found[0, 3], lower @ lower.T)
    assert torch.linalg.eigvalsh(found).min() > 0
    torch.testing.assert_close(found, found.mT)


def test_dropout_asks_a_network_again_and_leaves_it_as_it_was():
    net, ds = a_net(dropout=0.5).eval(), data()
    many = mc_dropout(net, ds, 3)
    assert (many[0].mean != many[1].mean).any()
    assert not any(m.training for m in net.modules())
    assert torch.equal(mc_dropout(net, ds, 3)[2].mean, many[2].mean)
    assert torch.equal(predict_gaussians(net, ds).mean, predict_gaussians(net, ds).mean)
    with pytest.raises(ValueError, match="no dropout"):
        mc_dropout(a_net(), ds)


# ---- promises


def a_promise(seed=0):
    g, ds = torch.Generator().manual_seed(seed), data(seed)
    mean = ds.keypoints + torch.randn(6, 5, 2, generator=g)
    return Gaussians(mean, 0.5 + torch.rand(6, 5, 2, generator=g)), ds


def test_one_sigma_for_all_is_the_root_mean_square_of_its_errors():
    pred, ds = a_promise()
    seen = ds.visible[:, 2]
    by_hand = (pred.mean - ds.keypoints)[seen][:, 2, 1].pow(2).mean().sqrt()
    torch.testing.assert_close(constant_std(pred, ds)[2, 1], by_hand)


def test_judge_says_what_the_measures_say():
    pred, ds = a_promise()
    found, (m, s, t) = judge(pred, ds), pred.flat(ds)
    assert found["rmse"] == pytest.approx((m - t).pow(2).mean().sqrt().item())
    assert found["in 68%"] == pytest.approx(coverage(m, s, t, (0.68,)).item())
    assert found["n_used"] + found["n_ignored"] == 30
    assert found["nll"] == pytest.approx(-Normal(m, s).log_prob(t).mean().item())
    with pytest.raises(ValueError, match=r"expected \(4, 5, 2\)"):
        judge(pred, ds[:4])


def test_the_factor_has_the_smallest_nll_and_changes_no_order():
    pred, ds = a_promise()
    m, s, t = pred.flat(ds)
    c = fit_scale(m, s, t)

    def nll(k):
        return -Normal(m, k * s).log_prob(t).mean().item()

    assert nll(c) < min(nll(0.99 * c), nll(1.01 * c))
    assert fit_scale(m, c * s, t) == pytest.approx(1)
    assert judge(pred.scaled(c), ds)["ause"] == pytest.approx(judge(pred, ds)["ause"])
    torch.testing.assert_close(pred.scaled(c).std, pred.std * c)


def test_a_written_row_holds_the_points_own_numbers(tmp_path):
    pred, ds = a_promise()
    write_predictions(tmp_path / "points.csv", pred, ds)
    table = pd.read_csv(tmp_path / "points.csv")
    row = table.iloc[5 * 4 + 3]
    assert len(table) == 30 and row["sample"] == 4 and row["visible"] == ds.visible[4, 3].item()
    assert row["y_std (px)"] ** 2 == pytest.approx(row["y_variance (px^2)"])
    entropy = Normal(0.0, pred.std[4, 3, 0]).entropy().item()
    assert row["x_entropy (nats)"] == pytest.approx(entropy, abs=1e-5)
    if row["visible"]:
        error = (pred.mean - ds.keypoints)[4, 3]
        assert row["y_error (px)"] == pytest.approx(error[1].item(), abs=1e-5)
        assert row["error (px)"] == pytest.approx(error.norm().item(), abs=1e-5)


def test_an_entropy_is_the_mean_surprise_of_its_own_draws():
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * 3 + 10
    log_var = torch.tensor(9.0).log()
    surprise = gaussian_nll(torch.tensor(10.0), log_var, draws).mean()
    assert surprise.item() == pytest.approx(gaussian_entropy(log_var).item(), abs=0.01)


def test_a_few_blunders_widen_the_normal_distribution_and_not_students():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(8000, generator=g).double()
    wrong = torch.rand(8000, generator=g) < 0.03
    z[wrong] = z[wrong].sign() * (8 + 4 * torch.rand(int(wrong.sum()), generator=g).double())
    half, other, zero = z[:4000], z[4000:], torch.zeros(())
    scales = torch.linspace(-1, 1.5, 501).double()
    found = {}
    for name, f in {
        "normal": lambda a, t: gaussian_nll(zero, 2 * a, t),
        "student": lambda a, t: student_nll(zero, a, t),
    }.items():
        best = scales[torch.stack([f(a, half).mean() for a in scales]).argmin()]
        found[name] = best.exp().item(), f(best, other).mean().item()
    assert found["student"][1] < found["normal"][1] and found["normal"][0] > 1.3 > found["student"][0]


def test_a_covariance_is_found_by_descent_and_beats_two_variances():
    g = torch.Generator().manual_seed(0)
    clicks = torch.randn(400, 2, generator=g).double() @ torch.tensor([[4.0, 2.0], [-0.5, 0.8]]).double()
    away, nll = clicks - clicks.mean(0), {}
    for name, free in {"full": [1.0, 1, 1], "upright": [1.0, 0, 1]}.items():
        raw = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([raw], lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            loss = cholesky_nll(torch.zeros(2).double(), raw * torch.tensor(free).double(), away).mean()
            loss.backward()
            optimizer.step()
        nll[name] = loss.item()
        if name == "full":
            found = cholesky_covariance(raw.detach())
            torch.testing.assert_close(found, away.T @ away / 400, atol=0.15, rtol=0.02)
    assert nll["full"] < nll["upright"] - 0.3


# ---- what the lessons say of the stored studies


def test_the_head_afterwards_finds_the_sigma_of_the_labels():
    table = evidence("drawn_losses")
    after = table[table["loss"] == "afterwards"]
    assert (after["correlation"] > 0.8).all() and after["ratio"].between(0.8, 1.25).all()
    assert (after["area"] < 0.05).all()
    rmse = table[table["loss"] == "rmse"]
    assert (after["clean_px"].values == rmse["clean_px"].values).all()
    assert (after["nll"].values < rmse["nll"].values).all()
