"""Learning from few labels: nothing is mirrored in silence."""

from dataclasses import replace

import pytest
import torch
from label_folders import picture
from torch import nn

from kpnb.annotate import Annotator
from kpnb.datasets import load
from kpnb.exercises.your_own_keypoints import hills
from kpnb.heatmaps import gaussian_heatmaps
from kpnb.keypoints import KeypointDataset
from kpnb.own_data import register
from kpnb.recipes.label_order import choose_next, doubt_and_error, shaken
from kpnb.rounds import guess, learn, one_round, small_network, spread, with_points
from kpnb.scenes import pets


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


def test_the_ellipse_of_two_places_is_theirs_less_that_of_the_target():
    two, middle = hills((20, 40), (44, 24))[None, None], torch.tensor([[[32.0, 32.0]]])
    found = spread(two, middle, 4, 3.0)[0, 0]  # ±12 in x, ±8 in y, against each other
    assert (found - torch.tensor([[144.0, -96.0], [-96.0, 64.25]])).abs().max() < 1.5
    assert (spread(two, middle, 4)[0, 0] - found - 9 * torch.eye(2)).abs().max() < 1.5  # the target left in
    raised = spread(two + 0.05 * two.amax(), middle, 4, 3.0, floor=0.05 / 1.05)[0, 0]
    assert (raised - found).abs().max() < 0.01
    certain = spread(hills((32, 30))[None, None], torch.tensor([[[32.0, 30.0]]]), 4, 3.0)[0, 0]
    assert (certain - torch.eye(2) / 4).abs().max() < 0.3  # not below the least half-axis
    with pytest.raises(ValueError, match=r"\(1, 2, 2\)"):
        spread(two, torch.zeros(1, 2, 2), 4)


class Told(nn.Module):
    "Maps with tops at given places, and mirrored ones for the mirrored picture."

    def __init__(self, maps):
        super().__init__()
        self.maps, self.w, self.turn = maps, nn.Parameter(torch.zeros(1)), 0

    def forward(self, x):
        self.turn += 1
        return self.maps if self.turn % 2 else self.maps[:, [0, 2, 1]].flip(-1)


def test_a_network_that_knows_the_places_has_no_doubt():
    ds = pets(1, 64, seed=1, masks=False).select(["nose", "left_eye", "right_eye"])
    places = torch.tensor([[[20.0, 30.0], [40.0, 22.0], [24.0, 21.0]]])
    logits = torch.logit(gaussian_heatmaps(places, 64, 3.0, 4).clamp(1e-6, 1 - 1e-6))
    sure = guess(Told(logits), ds)
    assert (sure.points - places).abs().max() < 0.3 and sure.doubts["mirror"].max() < 0.1
    assert (sure.covariances[0, 0].diagonal().sqrt() - 2.6).abs().max() < 0.4
    truth = replace(ds, keypoints=places - 3, visible=torch.tensor([[True, True, False]]))
    assert doubt_and_error(sure, truth)["error (px)"] == pytest.approx(3 * 2**0.5, abs=0.4)


def test_a_round_needs_two_labels_and_ends_when_nothing_is_left(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", (16, 16), i)
    a = Annotator(tmp_path, ["nose"])
    with pytest.raises(ValueError, match="0 pictures are labelled; label at least 2 first"):
        one_round(a, small_network)
    for i in range(3):
        a.go(f"{i}.png")
        a.canvas.move("nose", 3, 4)
    assert one_round(a, small_network, steps=2, size=16, progress=False) is None
    assert a.progress().startswith("3 of 3 pictures labelled")


def test_the_next_pictures_are_those_of_most_doubt_or_in_the_given_order():
    pool = pets(12, 64, seed=1, masks=False).select(["nose"])
    model = with_points(small_network(1), 1)
    doubt = guess(model, pool).doubt("entropy")
    picked = choose_next(model, pool, [3, 5], 6, "entropy", range(12))
    worst = sorted((i for i in range(12) if i not in (3, 5)), key=lambda i: -doubt[i])[:4]
    assert picked[:2] == [3, 5] and set(picked[2:]) == set(worst)
    assert choose_next(model, pool, [3, 5], 5, "random", [5, 9, 3, 1, 7, 0]) == [3, 5, 9, 1, 7]


def test_a_shaken_hand_trembles_by_what_is_said_and_stays_in_the_picture():
    pool = pets(60, 64, seed=1, masks=False).select(["nose", "left_eye", "right_eye"])
    off = shaken(pool, 2.0, seed=1).keypoints - pool.keypoints
    assert float(off.std()) == pytest.approx(2.0, abs=0.3)
    assert not torch.equal(shaken(pool, seed=1).keypoints, shaken(pool, seed=2).keypoints)
    edge = shaken(replace(pool, keypoints=torch.zeros_like(pool.keypoints)), 1.0)
    assert not (edge.visible & (edge.keypoints < 0).any(-1)).any()
    assert torch.equal(shaken(pool).to_file, pool.to_file)
