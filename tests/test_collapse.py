"The switches of lesson 21: what each of them turns, and what becomes of a network."

import pytest
import torch
from torch import nn

from kpnb.collapse import Multiply, Switches, build, try_switches
from kpnb.diagnosis import diagnose
from kpnb.evidence import evidence
from kpnb.scenes import faces

EASY = dict(points=1, gray=True, masks=False, shift=0.6, size_range=(0.4, 0.6), yaw=30.0, occluders=0.0)


def small(n=64, seed=0):
    return faces(n, size=(30, 40), seed=seed, **EASY)


def test_the_answer_in_pixels_is_the_way_back_from_every_target():
    batch = next(small().batches(64, device="cpu"))
    for targets in ("-1..1", "0..1", "pixels"):
        s = Switches(targets=targets)
        assert torch.allclose(s.pixels(s.target(batch), batch), batch["keypoints"], atol=1e-4)


def test_targets_have_the_range_that_their_name_says():
    corners = {"image": torch.zeros(1, 1, 30, 40), "keypoints": torch.tensor([[[0.0, 0.0], [40.0, 30.0]]])}
    for targets, last in (("-1..1", [[-1, -1], [1, 1]]), ("0..1", [[0, 0], [1, 1]])):
        assert Switches(targets=targets).target(corners)[0].tolist() == last


def test_initial_weights_have_the_size_that_was_asked_for():
    net = build(Switches(init=0.01), (30, 40))
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            assert m.bias is None or not m.bias.any()
            assert float(m.weight.detach().std()) == pytest.approx(0.01, rel=0.3)


def test_pixels_to_255_are_multiplied_inside_and_the_seed_decides_the_weights():
    a, b, c = (build(Switches(inputs="0..255", seed=s), (30, 40)) for s in (0, 0, 1))
    assert isinstance(a[0], Multiply) and a[0](torch.ones(1)) == 255
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert not torch.equal(a[1].head[1].weight, c[1].head[1].weight)


def test_an_outcome_has_the_weights_from_before_and_the_numbers_of_the_last_epoch():
    o = try_switches(Switches(), small(), small(32, 1), epochs=2)
    fresh = build(Switches(), (30, 40)).state_dict()
    assert all(torch.equal(o.before[k], v) for k, v in fresh.items())
    assert (o.R, o.skill) == (o.history["R"][-1], o.history["skill"][-1]) and len(o.history) == 2


def test_tiny_weights_collapse_and_are_named():
    o = try_switches(Switches(init=1e-3), small(200), small(64, 1), epochs=2)
    assert o.R < 1e-3
    assert diagnose(o.model, small(64, 1), o.before).cause == "initial weights too small"


def test_the_doctor_names_the_cause_on_faces_and_weights_that_it_has_not_seen():
    rows = evidence("doctor")
    collapsed, looks = rows[rows.R < 0.1], rows[rows.R >= 0.1]
    assert len(collapsed) >= 60 and collapsed.named.mean() > 0.95
    assert len(looks) >= 30 and looks.alarmed.mean() < 0.1
