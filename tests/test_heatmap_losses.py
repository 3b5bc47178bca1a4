"""Losses of maps: a network and its loss fit or are refused; hidden points; digits."""

import math

import pytest
import torch
from heatmap_cases import (
    DRAWING,
    NETWORKS,
    SEEN,
    SIZE,
    SMOOTH,
    Z,
    a_batch,
    a_dataset,
    default_device_changes_nothing,
    drawings,
    forgotten,
    hidden_points_change_nothing,
    target,
)
from torch import nn
from torch.testing import assert_close

from kpnb import heatmap_losses
from kpnb.backbones import SlimHeatmap
from kpnb.codec import HeatmapCodec
from kpnb.core import make_generator
from kpnb.decoders import (
    decode_argmax,
    decode_dark,
)
from kpnb.heatmap_losses import (
    LOSS_SPACES,
    HeatmapLoss,
    dsnt_loss,
    gaussian_mse,
    heatmap_bce,
    heatmap_focal,
    heatmap_mse,
    js_divergence,
)
from kpnb.heatmap_training import (
    head_sigma,
)
from kpnb.heatmaps import gaussian_heatmaps
from kpnb.models import ResNet18Heatmap
from kpnb.training import fit

pytestmark = pytest.mark.usefixtures("same_weights")


@pytest.mark.parametrize("name", DRAWING)
def test_a_network_learns_from_a_loss_or_is_refused_by_it(name):
    net, batch = NETWORKS[name](), a_batch()
    for kind in LOSS_SPACES:
        loss, output = HeatmapLoss(kind, 6.0), net(batch["image"])
        if net.space not in loss.takes:
            with pytest.raises(
                ValueError, match=rf"takes .*{loss.takes[0]}.*(answers with {net.space}|as {net.space} have)"
            ):
                loss(output, batch)
            with pytest.raises(
                ValueError, match=rf"{kind!r} takes {loss.takes[0]}.* answers with {net.space}"
            ):
                HeatmapCodec.of(net, 6.0, kind)
            continue
        tied = HeatmapCodec.of(net, 6.0, kind).loss
        before = loss(output, batch)
        assert_close(tied(output, batch), before)
        slopes = torch.autograd.grad(before, list(net.parameters()))
        length = torch.cat([s.flatten() for s in slopes]).norm()
        with torch.no_grad():
            for weight, slope in zip(net.parameters(), slopes):
                weight -= 1e-3 * slope / length
        assert loss(net(batch["image"]), batch) < before, kind


def test_all_defaults_are_refused_at_the_first_batch():
    data = a_dataset(size=(64, 64))
    for net in (
        SlimHeatmap(2),
        SlimHeatmap(2, low_start=False),
        ResNet18Heatmap(2),
        ResNet18Heatmap(2, last_batchnorm=False),
    ):
        before = [p.detach().clone() for p in net.parameters()]
        words = "the network answers with probabilities, and loss takes logits"
        with pytest.raises(ValueError, match=words):
            fit(net, data, loss=HeatmapLoss(), epochs=1, progress=False, amp=False)
        words = "heatmap_bce takes logits, and the network answers with probabilities"
        with pytest.raises(ValueError, match=words):  # a wrapper says nothing; the loss sees it
            fit(nn.Sequential(net), data, loss=HeatmapLoss(), epochs=1, progress=False, amp=False)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_a_network_in_bfloat16_is_refused_as_well():
    net, batch = SlimHeatmap(2), a_batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = net(batch["image"]).bfloat16()
    with pytest.raises(ValueError, match="takes logits"):
        HeatmapLoss()(output.float(), batch)


@pytest.mark.parametrize(
    "last",
    [
        torch.sigmoid,
        lambda z: z.sigmoid().clamp(1e-4, 1 - 1e-4),
        lambda z: z.bfloat16().sigmoid().float(),
        lambda z: z.flatten(2).softmax(-1).view_as(z),
        lambda z: z.flatten(2).softmax(-1).unflatten(2, z.shape[2:]).contiguous(),
    ],
)
def test_a_network_of_ones_own_with_an_activation_is_refused_before_it_has_learned_anything(last):
    batch = a_batch()
    free = (0.1 * torch.randn(2, 2, *SIZE)).requires_grad_()
    for kind in ("bce", "focal", "dsnt"):
        with pytest.raises(ValueError, match="takes logits, and the network answers with probabilities"):
            HeatmapLoss(kind)(last(free), batch)
        assert HeatmapLoss(kind)(free, batch).isfinite()


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_perfect_map_has_the_smallest_loss(kind):
    batch, g = a_batch(), make_generator(3)
    for space in LOSS_SPACES[kind]:
        codec = HeatmapCodec(space, 8.0, kind, stride=4)
        perfect = codec.encode(batch)
        best = codec.loss(perfect, batch)
        for size in (0.3, 0.03):
            other = perfect + size * torch.randn(perfect.shape, generator=g)
            assert codec.loss(other.clamp(0, 1) if space == "probabilities" else other, batch) > best - 1e-6


def test_losses_called_directly_refuse_a_map_of_the_wrong_kind():
    batch = a_batch()
    points, seen, drawn = batch["keypoints"], batch["visible"], drawings(batch)
    target, logits, maps = drawn["probabilities"], drawn["logits"], drawn["probabilities"]
    for_logits = [
        lambda z: heatmap_bce(z, target, seen),
        lambda z: heatmap_focal(z, target, seen),
        lambda z: dsnt_loss(z, points, seen, SIZE, 8.0),
        *(lambda z, k=k: HeatmapLoss(k)(z, batch) for k in ("bce", "focal", "dsnt")),
    ]
    for loss in for_logits:
        assert loss(logits).isfinite()
        with pytest.raises(ValueError, match="takes logits, and the network answers with probabilities"):
            loss(maps)
        with pytest.raises(ValueError, match="takes logits"):
            loss(maps / maps.sum((-2, -1), keepdim=True))  # a softmax's
    for_maps = [
        lambda m: heatmap_mse(m, target, seen),
        lambda m: gaussian_mse(m, points, seen, SIZE, 8.0),
        *(lambda m, k=k: HeatmapLoss(k)(m, batch) for k in ("mse", "binary")),
    ]
    for loss in for_maps:
        assert loss(maps) < loss(maps * 0) if loss is not for_maps[-1] else loss(maps).isfinite()
        with pytest.raises(
            ValueError, match="takes probabilities or heights, and found values from -1.* as logits have"
        ):
            loss(logits)
    for wrong in (logits, maps, -maps / maps.sum((-2, -1), keepdim=True)):
        with pytest.raises(
            ValueError,
            match="js_divergence takes maps of at least 0 that sum to 1, and in q the map of picture 0",
        ):
            js_divergence(maps / maps.sum((-2, -1), keepdim=True), wrong)


@pytest.mark.parametrize("part", ["gaussian_mse", "dsnt_loss", "HeatmapLoss"])
def test_maps_that_do_not_fit_the_picture_are_refused(part):
    points = torch.tensor([[[20.0, 20.0]]])
    seen, maps = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, 24, 31)
    batch = {"image": torch.zeros(1, 3, 96, 128), "keypoints": points, "visible": seen}
    use = {
        "gaussian_mse": lambda: gaussian_mse(maps, points, seen, (96, 128), 3.0),
        "dsnt_loss": lambda: dsnt_loss(maps, points, seen, (96, 128), 3.0),
        "HeatmapLoss": lambda: HeatmapLoss()(maps, batch),
    }[part]
    with pytest.raises(ValueError, match="maps of 24×31 cells do not fit a picture of 96×128 pixels"):
        use()


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf])
def test_a_sigma_that_is_not_above_0_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma is .* expected a number above 0"):
        HeatmapLoss(sigma=sigma)


def every_loss(b):
    return torch.stack(
        [
            HeatmapLoss(kind, sigma)(Z if "logits" in spaces else Z.sigmoid(), b)
            for kind, spaces in LOSS_SPACES.items()
            for sigma in (6.0, head_sigma())
        ]
    )


USES = {  # every public name whose call, or one of its methods, takes labels -> what it makes of a batch
    "heatmap_mse": lambda b: heatmap_mse(Z.sigmoid(), target(b), b["visible"]),
    "heatmap_bce": lambda b: heatmap_bce(Z, target(b), b["visible"]),
    "heatmap_focal": lambda b: heatmap_focal(Z, target(b), b["visible"]),
    "gaussian_mse": lambda b: gaussian_mse(Z.sigmoid(), b["keypoints"], b["visible"], SIZE, 6.0),
    "dsnt_loss": lambda b: dsnt_loss(Z, b["keypoints"], b["visible"], SIZE, 6.0),
    "HeatmapLoss": every_loss,
}


def test_no_function_with_labels_is_forgotten_here():
    assert not forgotten(heatmap_losses, USES)


@pytest.mark.parametrize("name", USES)
def test_coordinates_of_hidden_points_change_nothing(name):
    hidden_points_change_nothing(USES[name])


def test_a_default_device_of_meta_changes_nothing_here_and_later():
    default_device_changes_nothing(USES)


@pytest.mark.parametrize("name", ["heatmap_mse", "heatmap_bce", "heatmap_focal", "gaussian_mse", "dsnt_loss"])
def test_hidden_points_pull_at_nothing(name):
    "Nor do they in the gradient."
    batch = a_batch(4) | {
        "visible": SEEN,
        "keypoints": torch.where(SEEN[..., None], a_batch(4)["keypoints"], math.nan),
    }
    kind = {"heatmap_mse": "binary", "gaussian_mse": "mse"}.get(
        name, name.replace("heatmap_", "").replace("_loss", "")
    )
    maps = (Z.sigmoid() if "probabilities" in LOSS_SPACES[kind] else Z.clone()).requires_grad_()
    (slope,) = torch.autograd.grad(HeatmapLoss(kind, 6.0)(maps, batch), maps)
    assert (
        slope.isfinite().all() and (slope[~SEEN] == 0).all() and (slope[SEEN].abs().amax((-2, -1)) > 0).all()
    )


@pytest.mark.parametrize("difference", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_the_squared_difference_of_nearly_equal_maps_keeps_its_digits(difference):
    batch = a_batch(2, 3)
    points, seen = batch["keypoints"], batch["visible"]
    drawn = gaussian_heatmaps(points, SIZE, 6.0)
    maps = (drawn + difference * torch.rand(drawn.shape, generator=make_generator(2))).requires_grad_()
    exact = (maps.double() - gaussian_heatmaps(points.double(), SIZE, 6.0)).square().mean()
    direct = gaussian_mse(maps, points, seen, SIZE, 6.0, "heights")
    assert abs(direct / exact - 1) < max(1e-4, 2e-7 / difference)
    (slope,) = torch.autograd.grad(direct, maps)
    assert_close(slope, 2 * (maps - drawn).detach() / maps.numel(), atol=1e-10, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_numbers_of_single_precision(dtype):
    batch, tolerance = a_batch(3), 2e-3 if dtype == torch.float16 else 2e-2
    z = 8 * torch.randn(3, 2, 64, 96, generator=make_generator(4))
    points, seen = batch["keypoints"].to(dtype), batch["visible"]
    drawn = gaussian_heatmaps(points.float(), SIZE, 6.0)
    z, p = z.to(dtype), z.sigmoid().to(dtype)
    calls = {
        "mse": lambda m, z, t, p: heatmap_mse(m, t, seen),
        "bce": lambda m, z, t, p: heatmap_bce(z, t, seen),
        "focal": lambda m, z, t, p: heatmap_focal(z, t, seen),
        "gaussian_mse": lambda m, z, t, p: gaussian_mse(m, p, seen, SIZE, 6.0),
        "dsnt": lambda m, z, t, p: dsnt_loss(z, p, seen, SIZE, 6.0),
        "js": lambda m, z, t, p: js_divergence(z.flatten(2).softmax(-1).view_as(z), flat(t)).mean(),
        "argmax": lambda m, z, t, p: decode_argmax(z),
        "DARK": lambda m, z, t, p: decode_dark(m),
    }
    for name, call in calls.items():
        half, single = (
            call(p, z, drawn.to(dtype), points),
            call(p.float(), z.float(), drawn.to(dtype).float(), points.float()),
        )
        assert half.isfinite().all(), name
        assert_close(half.float(), single, atol=tolerance, rtol=tolerance)


def flat(maps):
    return (maps.float() / maps.float().sum((-2, -1), keepdim=True)).to(maps.dtype)
