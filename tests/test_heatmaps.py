"""Heatmaps: network, target, loss and decoder fit or are refused; places along both axes; hidden points."""

import inspect
import math
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kpnb import heatmaps, models
from kpnb.core import make_generator
from kpnb.heatmaps import (
    LOSS_SPACES,
    POINT_DECODERS,
    SPACES,
    CoarseHeatmap,
    Decode,
    FlipAverage,
    HeatmapCodec,
    HeatmapLoss,
    ScaleAverage,
    SlimHeatmap,
    accuracy,
    binary_heatmaps,
    check_space,
    decode_argmax,
    decode_centroid,
    decode_dark,
    decode_local_centroid,
    decode_quarter,
    decode_soft_argmax,
    decoder_error,
    dsnt_loss,
    gaussian_heatmaps,
    gaussian_mse,
    head_sigma,
    heatmap_bce,
    heatmap_focal,
    heatmap_mse,
    js_divergence,
    maps_of,
    pet_curve,
    pet_noses,
    train_heatmaps,
)
from kpnb.keypoints import KeypointDataset
from kpnb.models import HeatmapNet, ResNet18Heatmap, ResNet18Regressor
from kpnb.training import fit

SIZE = (64, 96)
SMOOTH = [
    kind for kind in LOSS_SPACES if kind != "focal"
]  # the focal loss wants one bright cell, not the hill


@pytest.fixture(autouse=True)
def same_weights_every_time():
    torch.manual_seed(0)


def a_batch(n=2, k=2, size=SIZE, seed=0):
    "Pictures with points at least 20 pixels from the edge, all visible."
    g = make_generator(seed)
    h, w = size
    points = 20 + torch.rand(n, k, 2, generator=g) * torch.tensor([w - 40.0, h - 40.0])
    return {
        "image": torch.rand(n, 3, h, w, generator=g),
        "keypoints": points,
        "visible": torch.ones(n, k, dtype=torch.bool),
    }


def moved(batch, dx, dy):
    return batch | {"keypoints": batch["keypoints"] + torch.tensor([dx, dy])}


def drawings(batch, stride=4):
    "A perfect network's answer in each space."
    map_ = gaussian_heatmaps(batch["keypoints"], SIZE, 8.0, stride, batch["visible"])
    return {"probabilities": map_, "logits": map_.clamp(1e-6, 1 - 1e-6).logit(), "heights": map_ - 0.02}


def a_dataset(names=("left eye", "right eye"), pairs=((0, 1),), n=4, size=(32, 32)):
    g, k = make_generator(0), len(names)
    images = torch.randint(0, 256, (n, 3, *size), generator=g, dtype=torch.uint8)
    points = 4 + torch.rand(n, k, 2, generator=g) * 24
    return KeypointDataset(
        images, points, torch.ones(n, k, dtype=torch.bool), keypoint_names=names, pairs=pairs
    )


def networks():
    """Every class whose first setting is the number of points.

    It comes with and without logits where it has the choice."""
    found = {}
    for module in (models, heatmaps):
        for name in module.__all__:
            kind = getattr(module, name)
            settings = (
                list(inspect.signature(kind).parameters)
                if inspect.isclass(kind) and issubclass(kind, nn.Module)
                else []
            )
            if not settings or settings[0] != "keypoints":
                continue
            options = {"in_channels": 3} if "in_channels" in settings else {}
            if name == "NoseNet":
                options["size"] = SIZE
            if "logits" not in settings:
                found[name] = lambda kind=kind, options=options: kind(2, **options)
                continue
            for logits in (False, True):
                found[f"{name}, logits={logits}"] = lambda kind=kind, o=options | {"logits": logits}: kind(
                    2, **o
                )
    return found


NETWORKS = networks()
DRAWING = [name for name in NETWORKS if "Heatmap" in name]


# ---- what a network answers


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_says_what_it_answers(name):
    net, batch = NETWORKS[name](), a_batch()
    answer = net(batch["image"])
    assert net.space in ("points", "gaussians", *SPACES)
    if net.space == "gaussians":
        assert len(answer) == 2 and answer[0].shape == answer[1].shape == (2, 2, 2)
    elif net.space == "points":
        assert answer.shape == (2, 2, 2)
    else:
        assert answer.shape == (2, 2, SIZE[0] // net.stride, SIZE[1] // net.stride)
        assert bool(((answer >= 0) & (answer <= 1)).all()) == (net.space == "probabilities")


def test_the_course_has_drawing_networks_of_both_kinds():
    assert {
        "SlimHeatmap, logits=False",
        "SlimHeatmap, logits=True",
        "CoarseHeatmap",
        "ResNet18Heatmap, logits=False",
        "HeatmapNet, logits=True",
    } <= {*DRAWING}
    switched = ResNet18Heatmap()
    switched.logits = True
    assert switched.space == "logits" and FlipAverage(ScaleAverage(switched, (1.0,))).space == "logits"


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


def test_the_defaults_of_a_codec_learn_where_the_defaults_of_the_parts_did_not():
    g, batch = make_generator(1), a_batch(4)
    for net in (SlimHeatmap(2), SlimHeatmap(2, logits=True)):
        codec = HeatmapCodec.of(net, 6.0)
        free = (
            torch.randn(4, 2, *SIZE, generator=g).mul(0.01).sub(2).requires_grad_()
        )  # the network's last layer, set free
        answer = (lambda z: z) if net.space == "logits" else torch.sigmoid
        optimizer = torch.optim.Adam([free], 0.3)
        for _ in range(15):
            optimizer.zero_grad()
            codec.loss(answer(free), batch).backward()
            optimizer.step()
        off = (codec.decode(answer(free), batch) - batch["keypoints"]).norm(dim=-1)
        assert off.max() < 1.5, net.space


# ---- every loss and every decoder, in every space


def test_a_codec_is_right_or_refused_in_every_combination():
    batch, allowed = a_batch(), 0
    for space in SPACES:
        for kind in LOSS_SPACES:
            for how in POINT_DECODERS:
                if space not in LOSS_SPACES[kind] or (how == "soft-argmax" and space != "logits"):
                    with pytest.raises(
                        ValueError, match=f"takes logits|takes probabilities.* answers with {space}"
                    ):
                        HeatmapCodec(space, 8.0, kind, how, stride=4)
                    continue
                codec, allowed = HeatmapCodec(space, 8.0, kind, how, stride=4), allowed + 1
                perfect = codec.encode(batch)
                best = codec.loss(perfect, batch)
                empty = {"logits": torch.full_like(perfect, -14.0)}.get(space, torch.zeros_like(perfect))
                others = [codec.encode(moved(batch, 12, 0)), codec.encode(moved(batch, 0, -12)), empty]
                assert all(best < codec.loss(o, batch) for o in others), (space, kind)
                limit = {"DARK": 0.01, "argmax": 2.9, "global centroid": 0.6, "soft-argmax": 0.6}.get(
                    how, 1.6
                )
                if kind == "binary":
                    limit = 2.9
                off = (codec.decode(perfect, batch) - batch["keypoints"]).norm(dim=-1)
                assert off.max() < limit, (space, kind, how, off.max())
    assert allowed == 3 * 6 + 2 * 2 * 5


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


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", None])
@pytest.mark.parametrize("how", POINT_DECODERS)
def test_decoders_find_the_point_or_refuse_the_map(how, activation):
    batch = a_batch(3)
    for space, output in drawings(batch).items():
        for options in ({}, {"beta": 20.0}) if how == "soft-argmax" else ({},):
            for known in (None, space):
                try:
                    found = Decode(how, activation, options, known)(output, batch)
                except ValueError as e:
                    assert "logits" in str(e) or "probabilities" in str(e), e
                    assert space != "logits" or activation is None or how == "soft-argmax", (
                        how,
                        space,
                        activation,
                    )
                    continue
                assert space == "logits" or activation is None, (
                    "a map that is one already needs no activation"
                )
                if options and space == "logits":
                    continue  # a beta of one's own, on anything
                assert (found - batch["keypoints"]).norm(dim=-1).max() < 2.9, (how, space, activation)


def test_decoders_called_directly_refuse_logits_also_where_the_peak_is_positive_all_around():
    batch = a_batch(1, 1)
    logits = gaussian_heatmaps(batch["keypoints"], SIZE, 16.0, 2).clamp(1e-6, 1 - 1e-6).logit()
    assert (logits > 0).flatten().sum() > 100
    for decoder in (decode_dark, decode_local_centroid, decode_centroid):
        with pytest.raises(ValueError, match="logits"):
            decoder(logits, 2)
        assert (decoder(logits.sigmoid(), 2) - batch["keypoints"]).norm() < 2.5
    for decoder in (decode_argmax, decode_quarter):
        assert_close(decoder(logits, 2), decoder(logits.sigmoid(), 2))
    with pytest.raises(ValueError, match="decode_soft_argmax without a beta takes logits"):
        decode_soft_argmax(gaussian_heatmaps(batch["keypoints"], SIZE, 8.0, 2), 2)


def test_the_answer_of_a_last_layer_without_an_activation_is_told_from_logits():
    batch, g = a_batch(), make_generator(6)
    heights = drawings(batch)["heights"] + 0.005 * torch.randn(2, 2, 16, 24, generator=g).clamp(-3, 3)
    for use in (HeatmapLoss("bce"), HeatmapLoss("dsnt"), Decode(), Decode("soft-argmax", None)):
        with pytest.raises(ValueError, match="takes logits"):
            use(heights, batch)
    codec = HeatmapCodec("heights", 8.0)
    assert codec.loss(heights, batch) < 1e-3
    assert (codec.decode(heights, batch) - batch["keypoints"]).norm(dim=-1).max() < 0.5


def test_a_softmax_is_not_taken_twice():
    with pytest.raises(ValueError, match="takes a softmax itself"):
        Decode("soft-argmax", "softmax")
    assert Decode("soft-argmax", "sigmoid", {"beta": 20.0}).takes == ("logits",)


def test_logits_before_the_first_step_raise_no_false_alarm():
    batch, kinds = a_batch(), [k for k in LOSS_SPACES if "logits" in LOSS_SPACES[k]]
    answers = [torch.zeros(2, 2, *SIZE), torch.full((2, 2, *SIZE), 0.3), torch.full((2, 2, *SIZE), 1.0)]
    for seed in range(6):
        torch.manual_seed(seed)
        nets = [SlimHeatmap(2, logits=True, low_start=False), SlimHeatmap(2, logits=True), CoarseHeatmap(2)]
        if seed < 1:
            nets += [
                ResNet18Heatmap(2, logits=True),
                HeatmapNet(2, decoder="top-down", stride=4, logits=True),
            ]
        answers += [net.train(mode)(batch["image"]).detach() for net in nets for mode in (True, False)]
        answers += [spread * torch.rand(2, 2, *SIZE) for spread in (0.1, 0.5, 1.0)]  # all of them in [0, 1]
    for output in answers:
        for kind in kinds:
            assert HeatmapLoss(kind, 6.0)(output, batch).isfinite()
        for decode in (Decode(), Decode("soft-argmax", None), Decode("argmax", "softmax")):
            assert decode(output, batch).isfinite().all()


def test_a_declared_space_is_believed_and_a_wrong_one_is_named():
    batch = a_batch()
    maps, seen = drawings(batch)["probabilities"], batch["visible"]
    assert HeatmapLoss("bce", space="logits")(maps, batch).isfinite()  # whoever says so means it
    assert heatmap_mse(3 * maps - 1, maps, seen, "heights") > 0
    with pytest.raises(ValueError, match="space is 'maps'; choose one of logits, probabilities, heights"):
        check_space(maps, "logits", "me", "maps")
    with pytest.raises(
        ValueError, match="the loss 'mse' takes probabilities or heights, and the network answers with logits"
    ):
        HeatmapLoss("mse", space="logits")
    with pytest.raises(
        ValueError,
        match="the decoder 'DARK' after sigmoid takes logits, and the network answers with probabilities",
    ):
        Decode(space="probabilities")


def test_a_codec_names_a_network_that_does_not_fit():
    for net, kw, message in (
        (ResNet18Regressor(2), {}, "ResNet18Regressor answers with points; a HeatmapCodec is for maps"),
        (nn.Conv2d(3, 2, 1), {}, "Conv2d has no attribute space; say what it answers"),
        (SlimHeatmap(), {"space": "logits"}, "SlimHeatmap answers with probabilities, and space is 'logits'"),
        (
            SlimHeatmap(),
            {"kind": "bce"},
            "the loss 'bce' takes logits, and the network answers with probabilities",
        ),
        (
            CoarseHeatmap(),
            {"kind": "mse"},
            "the loss 'mse' takes probabilities or heights, and the network answers with logits",
        ),
        (SlimHeatmap(), {"how": "soft-argmax"}, "the decoder 'soft-argmax' after no activation takes logits"),
    ):
        with pytest.raises(ValueError, match=message):
            HeatmapCodec.of(net, **kw)
    codec = HeatmapCodec.of(FlipAverage(CoarseHeatmap()), 5.0)
    assert (codec.space, codec.kind, codec.stride, codec.decode.activation) == ("logits", "bce", 4, "sigmoid")
    assert HeatmapCodec.of(nn.Conv2d(3, 2, 1), space="heights").kind == "mse"
    with pytest.raises(ValueError, match="stride is None"):
        HeatmapCodec().encode(a_batch())


def test_training_with_bce_refuses_a_network_of_probabilities_before_it_begins():
    data, net = a_dataset(), SlimHeatmap(2)
    with pytest.raises(ValueError, match="'bce' takes logits, and the network answers with probabilities"):
        train_heatmaps(net, data, data, epochs=1, progress=False)


def test_the_maps_of_a_network_go_through_one_sigmoid():
    images = a_dataset().images
    inner = SlimHeatmap(2, logits=True)
    expected = maps_of(inner, images)
    inner.logits = False
    assert_close(maps_of(inner, images), expected)
    assert expected.max() < 0.3  # the low start

    class Silent(nn.Module):  # a network that does not say what it answers
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return drawings(a_batch(len(x)))["probabilities"] + self.weight

    assert_close(maps_of(Silent(), images), drawings(a_batch(4))["probabilities"])


# ---- along both axes


def test_decoders_and_losses_see_the_stride_of_each_axis():
    tall = {
        "image": torch.zeros(1, 3, 128, 64),
        "keypoints": torch.tensor([[[21.0, 92.0]]]),
        "visible": torch.ones(1, 1, dtype=torch.bool),
    }
    size, seen = (128, 64), tall["visible"]
    maps = gaussian_heatmaps(tall["keypoints"], size, 9.0, (4, 2))  # 32×32 cells of 4×2 pixels
    assert maps.shape[-2:] == (32, 32)
    y, x = torch.meshgrid((torch.arange(32) + 0.5) * 4, (torch.arange(32) + 0.5) * 2, indexing="ij")
    assert_close(maps[0, 0], torch.exp(-((x - 21) ** 2 + (y - 92) ** 2) / (2 * 81)))
    assert binary_heatmaps(tall["keypoints"], size, (4, 2))[0, 0].nonzero().tolist() == [[23, 10]]
    assert (
        binary_heatmaps(tall["keypoints"], size, (4, 2), radius=5.0).sum()
        == (((x - 21) ** 2 + (y - 92) ** 2) <= 25).sum()
    )
    for how in POINT_DECODERS:
        if how == "soft-argmax":
            found = Decode(how, None)((maps + 1e-12).log(), tall)
        else:
            found = Decode(how, None)(maps, tall)
        assert (found - tall["keypoints"]).abs().max() <= 2.0, (how, found)
    assert_close(Decode("DARK", None)(maps, tall), tall["keypoints"], atol=1e-3, rtol=0)
    assert gaussian_mse(maps, tall["keypoints"], seen, size, 9.0) < 1e-9
    for kind in SMOOTH:
        codec = HeatmapCodec(LOSS_SPACES[kind][0], 9.0, kind, stride=(4, 2))
        perfect = codec.encode(tall)
        assert all(
            codec.loss(perfect, tall) < codec.loss(perfect, moved(tall, dx, dy))
            for dx, dy in ((0, 8), (0, -8), (8, 0), (-8, 0))
        )


def test_sizes_and_strides_that_do_not_fit_are_refused():
    points = torch.tensor([[[20.0, 20.0]]])
    seen, maps = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, 24, 31)
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
    batch = {"image": torch.zeros(1, 3, 96, 128), "keypoints": points, "visible": seen}
    for use in (
        lambda: gaussian_mse(maps, points, seen, (96, 128), 3.0),
        lambda: dsnt_loss(maps, points, seen, (96, 128), 3.0),
        lambda: HeatmapLoss()(maps, batch),
        lambda: Decode()(maps, batch),
    ):
        with pytest.raises(ValueError, match="maps of 24×31 cells do not fit a picture of 96×128 pixels"):
            use()


def test_other_silly_settings_are_refused_by_name():
    points, maps = torch.tensor([[[20.0, 20.0]]]), torch.zeros(1, 1, 16, 16)
    for sigma in (0, -1.0, math.nan, math.inf):
        for use in (
            lambda: gaussian_heatmaps(points, 64, sigma),
            lambda: HeatmapLoss(sigma=sigma),
            lambda: HeatmapCodec(sigma=sigma),
        ):
            with pytest.raises(ValueError, match="sigma is .* expected a number above 0"):
                use()
    for use, message in (
        (lambda: decode_dark(maps, blur=-1.0), "blur is -1.0"),
        (lambda: decode_local_centroid(maps, radius=-1), "radius is -1"),
        (lambda: binary_heatmaps(points, 64, radius=-1.0), "radius is -1.0"),
        (lambda: decoder_error("best"), "how is 'best'; choose one of"),
        (lambda: decoder_error("DARK", n=0), "n is 0"),
        (lambda: ScaleAverage(nn.Identity(), (math.nan,)), "above 0"),
        (lambda: head_sigma(0.0), "share is 0.0"),
        (lambda: head_sigma(0.1, -1.0), "least is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            use()


# ---- left and right


class Sides(nn.Module):
    "Sees bright spots: the left one in map 0, the right one in map 1."

    def forward(self, x):
        w = x.shape[-1] // 2
        return torch.stack(
            [
                torch.cat([x[:, 0, :, :w], 0 * x[:, 0, :, w:]], -1),
                torch.cat([0 * x[:, 0, :, :w], x[:, 0, :, w:]], -1),
            ],
            1,
        )


def test_flip_averaging_exchanges_left_and_right_or_refuses():
    points = torch.tensor([[[8.0, 16.0], [24.0, 16.0]]])
    x = gaussian_heatmaps(points, 32, 3.0).sum(1, keepdim=True)
    data = a_dataset()
    for both in (
        FlipAverage(Sides(), [(0, 1)]),
        FlipAverage(Sides(), data),
        FlipAverage(Sides(), data.pairs, data.keypoint_names),
    ):
        assert_close(decode_dark(both(x)), points, atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="FlipAverage: 2 maps and no pairs"):
        FlipAverage(Sides())(x)
    for names in (["left eye", "right eye"], ["eye_l", "eye_r"]):
        with pytest.raises(ValueError, match=names[0]):
            FlipAverage(Sides(), (), names)
        with pytest.raises(ValueError, match=names[0]):
            FlipAverage(Sides(), a_dataset(names, ()))
    assert FlipAverage(Sides(), (), ["nose", "chin"])(x).shape == (1, 2, 32, 32)
    assert FlipAverage(nn.Identity())(x).shape == (1, 1, 32, 32)  # one point has no other side
    with pytest.raises(ValueError, match="2 maps, and 3 keypoint_names"):
        FlipAverage(Sides(), (), ["a", "b", "c"])(x)


def test_training_refuses_sides_without_pairs_before_it_begins():
    data, net = a_dataset(pairs=()), CoarseHeatmap(2)
    before = [p.detach().clone() for p in net.parameters()]
    for augment in (None, lambda batch, g: batch):
        with pytest.raises(ValueError, match="left eye"):
            train_heatmaps(net, data, data, epochs=1, augment=augment, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))


# ---- what is hidden counts nothing

SEEN = torch.tensor(
    [[True, False], [False, True], [True, True], [False, False]]
)  # what is visible, and what is not
Z = 3 * torch.randn(4, 2, *(s // 4 for s in SIZE), generator=make_generator(5))  # what a network answers


def tiny(keypoints):
    torch.manual_seed(0)
    return CoarseHeatmap(keypoints, channels=(4, 4, 4, 4, 4))


def as_dataset(b, keypoints=2):
    names, pairs = ("left eye", "right eye")[:keypoints], [(0, 1)] if keypoints == 2 else ()
    names = names if keypoints == 2 else ("nose",)
    points, visible = b["keypoints"][:, :keypoints], b["visible"][:, :keypoints]
    return KeypointDataset((b["image"] * 255).byte(), points, visible, keypoint_names=names, pairs=pairs)


def target(b):
    return gaussian_heatmaps(b["keypoints"], SIZE, 6.0, 4, b["visible"])


def every_loss(b):
    return torch.stack(
        [
            HeatmapLoss(kind, sigma)(Z if "logits" in spaces else Z.sigmoid(), b)
            for kind, spaces in LOSS_SPACES.items()
            for sigma in (6.0, head_sigma())
        ]
    )


def every_code(b):
    return torch.stack(
        [
            HeatmapCodec(spaces[0], head_sigma(), kind, stride=4).encode(b)
            for kind, spaces in LOSS_SPACES.items()
        ]
    )


def trained(b):
    data = as_dataset(b)
    return train_heatmaps(tiny(2), data, data, head_sigma(), epochs=1, progress=False)["pred"]


def numbers(b):
    return torch.tensor(
        [*accuracy(torch.full((4, 2, 2), 30.0), as_dataset(b), torch.full((2, 2), 33.0)).values()]
    )


def pets_trained(b):
    data = as_dataset(b, 1)
    return pet_noses(data=(data, data), start=tiny(1), epochs=1, scales=(1.0,), sigma=4.0, progress=False)[
        "pred"
    ]


USES = {  # every public name whose call, or one of its methods, takes labels -> what it makes of a batch
    "binary_heatmaps": lambda b: binary_heatmaps(b["keypoints"], SIZE, 4, b["visible"], radius=5.0),
    "gaussian_heatmaps": target,
    "heatmap_mse": lambda b: heatmap_mse(Z.sigmoid(), target(b), b["visible"]),
    "heatmap_bce": lambda b: heatmap_bce(Z, target(b), b["visible"]),
    "heatmap_focal": lambda b: heatmap_focal(Z, target(b), b["visible"]),
    "gaussian_mse": lambda b: gaussian_mse(Z.sigmoid(), b["keypoints"], b["visible"], SIZE, 6.0),
    "dsnt_loss": lambda b: dsnt_loss(Z, b["keypoints"], b["visible"], SIZE, 6.0),
    "HeatmapLoss": every_loss,
    "Decode": lambda b: Decode()(Z, b),
    "HeatmapCodec": every_code,
    "head_sigma": head_sigma(),
    "accuracy": numbers,
    "train_heatmaps": trained,
    "pet_noses": pets_trained,
}


def takes_labels(thing):
    calls = [thing]
    if inspect.isclass(thing):
        calls = [
            f
            for name, f in inspect.getmembers(thing, inspect.isfunction)
            if name == "__call__" or not name.startswith("_")
        ]
    names = {p for f in calls if callable(f) for p in inspect.signature(f).parameters}
    return bool(names & {"visible", "batch", "ds", "train", "data"})


def test_no_function_with_labels_is_forgotten_here():
    assert {name for name in heatmaps.__all__ if takes_labels(getattr(heatmaps, name))} <= {*USES}


@pytest.mark.parametrize("name", USES)
def test_coordinates_of_hidden_points_change_nothing(name):
    batch = a_batch(4) | {"visible": SEEN}
    expected = USES[name](batch)
    assert expected.isfinite().all()
    for value in (math.nan, 0.0, -1.0, 1e9):
        hidden = torch.where(SEEN[..., None], batch["keypoints"], value)
        assert_close(USES[name](batch | {"keypoints": hidden}), expected, atol=0, rtol=0)


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


# ---- digits


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


def test_a_default_device_of_meta_changes_nothing_here_and_later():
    batch = a_batch(4) | {"visible": SEEN}
    names = [name for name in USES if name not in ("train_heatmaps", "pet_noses", "accuracy")]
    expected = {name: USES[name](batch) for name in names}
    with torch.device("meta"):
        for name in names:
            assert_close(USES[name](batch), expected[name], atol=0, rtol=0)
    for name in names:
        assert_close(USES[name](batch), expected[name], atol=0, rtol=0)


# ---- a study that is resumed


def test_a_curve_is_resumed_only_with_the_settings_of_its_file(tmp_path, monkeypatch):
    asked = []

    def instead(network, pictures, **settings):
        asked.append((network, pictures, settings.get("sigma")))
        return {"accuracy": {"mean": 1.0, "median": 2.0}, "network": None}

    monkeypatch.setattr(sys.modules[pet_curve.__module__], "pet_noses", instead)
    path = tmp_path / "curve.csv"
    first = pet_curve((6,), ["hourglass"], 8, path, sigma=3.0, progress=False)
    again = pet_curve((6, 12), ["hourglass"], 8, path, sigma=3.0)
    assert len(first) == 2 and len(again) == 4 and asked.count(("hourglass", 6, 3.0)) == 2
    for other in ({"sigma": 2.0}, {"sigma": 3.0, "size": 64}, {}):
        with pytest.raises(ValueError, match=r"curve.csv: row 1 was measured with sigma=3.0, and now it is"):
            pet_curve((6,), ["hourglass"], 8, path, **other)
    for content, message in (
        ("network,scenes,pictures,mean,median\nhourglass,0,6,1,2\n", "no column settings"),
        ("", "no CSV that can be read"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"curve.csv: .*{message}"):
            pet_curve((6,), ["hourglass"], 8, path, sigma=3.0)


def test_fit_refuses_a_loss_or_a_decoder_for_another_answer_before_the_first_batch():
    from kpnb.models import ResNet18Heatmap
    from kpnb.training import fit

    class NoBatches:
        def __len__(self):
            return 8

        def batches(self, *args, **kw):
            raise AssertionError("a batch was drawn")

    for kw, words in (
        ({"loss": HeatmapLoss()}, "loss takes logits"),
        ({}, "loss takes points"),
        ({"loss": HeatmapLoss("mse"), "decode": Decode()}, "decode takes logits"),
    ):
        with pytest.raises(ValueError, match=f"the network answers with probabilities, and {words}"):
            fit(ResNet18Heatmap(), NoBatches(), **kw)
