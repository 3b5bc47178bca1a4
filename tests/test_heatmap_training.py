"""Training on maps: left and right, averages over copies, one sigmoid, reports, hidden points."""

import math

import pytest
import torch
from heatmap_cases import (
    a_batch,
    a_dataset,
    as_dataset,
    default_device_changes_nothing,
    drawings,
    forgotten,
    hidden_points_change_nothing,
    tiny,
)
from torch import nn
from torch.testing import assert_close

from kpnb import heatmap_training
from kpnb.backbones import CoarseHeatmap, SlimHeatmap
from kpnb.decoders import (
    decode_dark,
)
from kpnb.heatmap_training import (
    FlipAverage,
    ScaleAverage,
    error_report,
    head_sigma,
    maps_of,
    scene_noses,
    train_heatmaps,
)
from kpnb.heatmaps import gaussian_heatmaps

pytestmark = pytest.mark.usefixtures("same_weights")


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


def test_other_silly_settings_are_refused_by_name():
    for use, message in (
        (lambda: ScaleAverage(nn.Identity(), (math.nan,)), "above 0"),
        (lambda: head_sigma(0.0), "share is 0.0"),
        (lambda: head_sigma(0.1, -1.0), "least is -1.0"),
        (lambda: scene_noses("resnet19"), "network is 'resnet19'; choose one of hourglass"),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def trained(b):
    data = as_dataset(b)
    return train_heatmaps(tiny(2), data, data, head_sigma(), epochs=1, progress=False)["pred"]


def numbers(b):
    return torch.tensor(
        [*error_report(torch.full((4, 2, 2), 30.0), as_dataset(b), torch.full((2, 2), 33.0)).values()]
    )


USES = {  # every public name whose call, or one of its methods, takes labels -> what it makes of a batch
    "head_sigma": head_sigma(),
    "error_report": numbers,
    "train_heatmaps": trained,
}


def test_no_function_with_labels_is_forgotten_here():
    assert not forgotten(heatmap_training, USES)


@pytest.mark.parametrize("name", USES)
def test_coordinates_of_hidden_points_change_nothing(name):
    hidden_points_change_nothing(USES[name])


def test_a_default_device_of_meta_changes_nothing_here_and_later():
    default_device_changes_nothing(
        {name: use for name, use in USES.items() if name not in ("error_report", "train_heatmaps")}
    )
