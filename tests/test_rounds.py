"""Learning from few labels: nothing is mirrored in silence."""

import pytest
import torch
from label_folders import picture
from torch import nn

from kpnb.annotate import Annotator
from kpnb.datasets import load
from kpnb.keypoints import KeypointDataset
from kpnb.own_data import register
from kpnb.rounds import guess, learn, one_round, small_network


class Still(nn.Module):
    "Maps that do not depend on the picture."

    def __init__(self, k):
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(k, 8, 8))

    def forward(self, x):
        return self.maps.expand(len(x), -1, -1, -1) + 0 * x.mean()


def test_names_that_say_left_and_right_need_their_pairs(tmp_path):
    """They need them in `register`, `learn`, `guess` and `one_round`.

    With pairs all go, and a left without a right goes without a mirror."""
    sides, pairs = ["left_eye", "right_eye"], [("left_eye", "right_eye")]
    for i in range(3):
        picture(tmp_path / f"{i}.png", (16, 16), i)
    a = Annotator(tmp_path, sides)
    for f in ("0.png", "1.png"):
        a.go(f)
        for n in sides:
            a.canvas.move(n, 3, 4)
    ds = KeypointDataset(
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.full((2, 2, 2), 5.0), keypoint_names=sides
    )
    calls = [
        lambda: register("turned", a.labels.path),
        lambda: learn(small_network(2), ds, 1, progress=False),
        lambda: guess(Still(2), ds),
        lambda: one_round(a, small_network, steps=1, size=16, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="left_eye"):
            call()
    register("turned", a.labels.path, pairs=pairs)
    assert load("turned").pairs == [(0, 1)]
    one_round(a, small_network, pairs, steps=1, size=16, progress=False)
    lone = KeypointDataset(ds.images, ds.keypoints[:, :1], keypoint_names=["left_eye"])
    with pytest.raises(ValueError, match="left_eye"):
        learn(small_network(1), lone, 1, progress=False)
    learn(small_network(1), lone, 1, flip=0, progress=False)
    assert "mirror" not in guess(Still(1), lone, mirror=False).doubts
