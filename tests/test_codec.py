"""Codecs: network, target, loss and decoder fit or are refused, in every combination and along both axes."""

import math

import pytest
import torch
from heatmap_cases import (
    SIZE,
    SMOOTH,
    Z,
    a_batch,
    default_device_changes_nothing,
    drawings,
    forgotten,
    hidden_points_change_nothing,
    moved,
)
from torch import nn
from torch.testing import assert_close

from kpnb import codec
from kpnb.backbones import CoarseHeatmap, ResNet18Regressor, SlimHeatmap
from kpnb.codec import Decode, HeatmapCodec
from kpnb.core import make_generator
from kpnb.decoders import (
    POINT_DECODERS,
)
from kpnb.heatmap_losses import (
    LOSS_SPACES,
    HeatmapLoss,
    gaussian_mse,
    heatmap_mse,
)
from kpnb.heatmap_training import (
    FlipAverage,
    head_sigma,
)
from kpnb.heatmaps import SPACES, binary_heatmaps, check_space, gaussian_heatmaps
from kpnb.models import HeatmapNet, ResNet18Heatmap
from kpnb.training import fit

pytestmark = pytest.mark.usefixtures("same_weights")


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


def test_fit_refuses_a_loss_or_a_decoder_for_another_answer_before_the_first_batch():
    from kpnb.models import ResNet18Heatmap

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


def test_maps_that_do_not_fit_the_picture_are_refused():
    batch = a_batch(1, 1, (96, 128))
    with pytest.raises(ValueError, match="maps of 24×31 cells do not fit a picture of 96×128 pixels"):
        Decode()(torch.zeros(1, 1, 24, 31), batch)


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf])
def test_a_sigma_that_is_not_above_0_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma is .* expected a number above 0"):
        HeatmapCodec(sigma=sigma)


def every_code(b):
    return torch.stack(
        [
            HeatmapCodec(spaces[0], head_sigma(), kind, stride=4).encode(b)
            for kind, spaces in LOSS_SPACES.items()
        ]
    )


USES = {  # every public name whose call, or one of its methods, takes labels -> what it makes of a batch
    "Decode": lambda b: Decode()(Z, b),
    "HeatmapCodec": every_code,
}


def test_no_function_with_labels_is_forgotten_here():
    assert not forgotten(codec, USES)


@pytest.mark.parametrize("name", USES)
def test_coordinates_of_hidden_points_change_nothing(name):
    hidden_points_change_nothing(USES[name])


def test_a_default_device_of_meta_changes_nothing_here_and_later():
    default_device_changes_nothing(USES)
