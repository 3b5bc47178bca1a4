"What `diagnose` says of networks whose answers are known."

import math

import pytest
import torch
from torch import nn

from kpnb.diagnosis import ADVICE, diagnose, layer_evidence, snapshot
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


# ---- what is measured


def chain(dead=False):
    "Two layers with a ReLU between them, for pictures of 24×32 pixels."
    torch.manual_seed(0)
    first, last = nn.Linear(24 * 32, 8), nn.Linear(8, 2)
    if dead:
        nn.init.constant_(first.bias, -1e3)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last, nn.Unflatten(1, (1, 2)))


def squared(answers):
    return answers.pow(2).mean()


def test_gradients_are_autograds_and_leave_nothing_behind():
    net, images = chain(), squares().images / 255
    net.train()
    rows = {r["layer"]: r for r in layer_evidence(net, images, loss=squared)}
    assert net.training and not net[1]._forward_hooks
    assert all(p.grad is None for p in net.parameters())
    squared(net(images)).backward()
    for i in (1, 3):
        grad, weight = net[i].weight.grad, net[i].weight.detach()
        assert rows[str(i)]["gradient"] == pytest.approx(float(grad.pow(2).mean().sqrt()), rel=1e-5)
        ratio = float(grad.norm() / weight.norm())
        assert rows[str(i)]["gradient / weights"] == pytest.approx(ratio, rel=1e-5)


def test_dead_units_pass_no_gradient_back():
    images = squares().images / 255
    rows = {r["layer"]: r for r in layer_evidence(chain(dead=True), images, loss=squared)}
    assert rows["2"]["dead"] == 1 and rows["1"]["gradient"] == 0
    assert rows["3"]["gradient"] == 0, "its inputs are all 0"


def test_without_a_loss_or_where_weights_are_frozen_there_is_no_gradient():
    net, images = chain(), squares().images / 255
    assert not [r for r in layer_evidence(net, images) if "gradient" in r]
    net[1].requires_grad_(False)
    assert [r["layer"] for r in layer_evidence(net, images, loss=squared) if "gradient" in r] == ["3"]
    net.requires_grad_(False)
    with torch.no_grad():
        assert not [r for r in layer_evidence(net, images, loss=squared) if "gradient" in r]


def test_gradients_are_measured_where_gradients_are_off():
    net, images = chain(), squares().images / 255
    with torch.no_grad():
        rows = layer_evidence(net, images, loss=squared)
    assert all(r["gradient"] > 0 for r in rows if "gradient" in r) and not torch.is_inference_mode_enabled()


def test_moved_is_the_change_beside_the_size_at_the_start():
    net = chain()
    before = snapshot(net)
    with torch.no_grad():
        net[1].weight *= 3
    moved = {
        r["layer"]: r["moved"] for r in layer_evidence(net, squares().images / 255, before) if "moved" in r
    }
    assert moved == {"1": pytest.approx(2), "3": 0}


def test_he_is_one_for_he_s_rule_and_less_for_torch_s_own_start():
    net = nn.Linear(600, 400)
    x = torch.rand(8, 600)
    assert layer_evidence(net, x)[0]["He now"] == pytest.approx(0.41, abs=0.01)
    nn.init.kaiming_normal_(net.weight)
    assert layer_evidence(net, x)[0]["He now"] == pytest.approx(1, abs=0.01)


def test_a_diagnosis_of_lost_signal_shows_the_gradient_too():
    net = chain()
    for p in net.parameters():
        p.data *= 1e-3
    d = diagnose(net, squares())
    assert d.cause == "initial weights too small"
    assert any("the gradient has the size" in e for e in d.evidence)
    assert all(r["gradient"] > 0 for r in d.layers if "gradient" in r)
