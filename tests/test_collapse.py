"What `diagnose` says of networks whose answers are known."

import math

import pytest
import torch
from torch import nn

from kpnb.collapse import ADVICE, diagnose
from kpnb.geometry import normalise
from kpnb.keypoints import KeypointDataset


def squares(n=40, size=(24, 32), seed=0):
    "Dark pictures with one bright pixel, which is the point."
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(2, size[0] - 2, (n,), generator=g)
    columns = torch.randint(2, size[1] - 2, (n,), generator=g)
    images = torch.zeros(n, 1, *size, dtype=torch.uint8)
    images[torch.arange(n), 0, rows, columns] = 255
    return KeypointDataset(images, torch.stack([columns, rows], -1)[:, None].float() + 0.5)


class Finds(nn.Module):
    "Where the bright pixel is, in normalised coordinates; then whatever a change makes of it."

    def __init__(self, change=None):
        super().__init__()
        self.change = change or nn.Identity()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        h, w = x.shape[-2:]
        at = x.flatten(1).argmax(1)
        points = torch.stack([at % w, at // w], -1)[:, None].float() + 0.5
        return self.change(normalise(points, (h, w)) * self.weight)


class Change(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def doctor(change=None, data=None, **kw):
    return diagnose(Finds(change), squares() if data is None else data, **kw)


def test_a_network_that_finds_the_point_is_healthy():
    d = doctor()
    assert (d.cause, d.collapsed) == ("healthy", False)
    assert d.skill == pytest.approx(1) and d.R == pytest.approx(1)
    assert "skill decides" in d.evidence[0]


def test_varied_but_wrong_answers_are_not_called_healthy():
    far = doctor(Change(lambda p: -7 * p))
    assert far.skill < -40 and far.R > 40
    assert (far.cause, far.collapsed) == ("varied but wrong", False)
    assert "skill decides" in far.evidence[0] and f"{far.skill:.3g}" in far.evidence[0]
    assert "VARIED BUT WRONG" in str(far) and ADVICE["varied but wrong"] in str(far)


def test_answers_that_belong_to_other_pictures_are_not_called_healthy():
    d = doctor(Change(lambda p: p.roll(1, 0)))
    assert d.R == pytest.approx(1) and d.skill < 0
    assert d.cause == "varied but wrong"


def test_answers_in_other_units_are_told_from_answers_that_know_nothing():
    units = doctor(Change(lambda p: 12 * (p + 1)))
    lost = doctor(Change(lambda p: p.roll(1, 0)))
    assert units.cause == lost.cause == "varied but wrong"
    assert "other units" in " ".join(units.evidence) and "other units" not in " ".join(lost.evidence)


def test_a_network_with_the_same_answer_for_all_has_collapsed():
    d = doctor(Change(lambda p: 0 * p))
    assert d.collapsed and d.cause not in ("healthy", "varied but wrong")
    assert d.R == pytest.approx(0) and "R decides" in d.evidence[0]


def test_shrunken_answers_that_follow_the_pictures_are_healthy():
    d = doctor(Change(lambda p: 0.3 * p))
    assert d.R < 0.1 and d.skill > 0.4
    assert d.cause == "healthy"


def test_answers_that_are_no_numbers_have_diverged():
    d = doctor(Change(lambda p: p / 0))
    assert d.cause == "diverged" and math.isnan(d.skill) and d.collapsed


@pytest.mark.parametrize("place", [math.nan, 0.0, -1.0, 1e9])
def test_places_of_points_that_cannot_be_seen_change_no_diagnosis(place):
    data = squares()
    visible = data.visible.clone()
    visible[::3] = False
    kept = KeypointDataset(data.images, torch.where(visible[..., None], data.keypoints, place), visible)
    whole = KeypointDataset(data.images, data.keypoints, visible)
    found, expected = doctor(data=kept), doctor(data=whole)
    assert (found.cause, found.R, found.skill) == (expected.cause, expected.R, expected.skill)


def test_too_few_visible_points_or_points_that_never_move_are_refused():
    data = squares()
    hidden = KeypointDataset(data.images, data.keypoints, torch.arange(40)[:, None] < 7)
    with pytest.raises(ValueError, match="found 7 pictures with a visible point; expected at least 8"):
        doctor(data=hidden)
    still = KeypointDataset(data.images, data.keypoints[:1].expand(40, -1, -1).clone())
    with pytest.raises(ValueError, match="the same in all pictures"):
        doctor(data=still)
    with pytest.raises(ValueError, match="found 5 pictures"):
        doctor(data=data[:5])
