"""The study of zeros as a landmark: its networks, its faces, and what its stored rows say."""

import pytest
import torch
from torch import nn

from kpnb.evidence import evidence
from kpnb.recipes.landmarks import half_faces, half_network
from kpnb.statistics import verdict

NAMES = ("fully connected", "flatten", "soft-argmax", "soft-argmax, zeros")


def rows(name):
    table = evidence("landmarks")
    return table[table["network"] == name].sort_values("seed")


def test_the_four_networks_have_as_many_weights_within_two_per_cent():
    sizes = [sum(p.numel() for p in half_network(name).parameters()) for name in NAMES]
    assert max(sizes) / min(sizes) < 1.02
    assert half_network(NAMES[2])(torch.zeros(2, 1, 32, 64)).shape == (2, 1, 2)


def test_the_two_that_are_compared_differ_in_their_border_only():
    torch.manual_seed(0)
    one = half_network("soft-argmax")
    torch.manual_seed(0)
    other = half_network("soft-argmax, zeros")
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    modes = [
        {m.padding_mode for m in net if isinstance(m, nn.Conv2d) and m.padding[0]} for net in (one, other)
    ]
    assert modes == [{"replicate"}, {"zeros"}]


@pytest.mark.parametrize("shift", [30, 31, 32])
def test_moved_faces_are_the_same_people_further_to_the_right(shift):
    left, right = half_faces(20, 12), half_faces(20, 12, shift)
    assert (left.keypoints[..., 0] < 32).all()
    torch.testing.assert_close(right.keypoints - left.keypoints, torch.tensor([shift, 0.0]).expand(20, 1, 2))


def test_ten_seeds_and_every_one_is_kept():
    assert all(rows(name)["seed"].tolist() == list(range(10)) for name in NAMES)


def test_zeros_pull_the_answers_to_where_noses_were_learned():
    "Claims of lesson 10."
    repeated, zeros = rows("soft-argmax"), rows("soft-argmax, zeros")
    for column in ("right_px", "right31_px", "right30_px"):
        found = verdict(repeated[column], zeros[column])
        assert found.told_apart and found.difference.value > 0
    assert (zeros["right_dx"].values < repeated["right_dx"].values).all()
    control = verdict(zeros["right_px"], zeros["right_other"])
    assert control.told_apart and control.difference.value < 0


def test_only_a_soft_argmax_finds_noses_where_none_were():
    assert rows("soft-argmax")["right_px"].max() < 4.5 < 15
    assert min(rows("fully connected")["right_px"].min(), rows("flatten")["right_px"].min()) > 15
