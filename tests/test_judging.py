"One training and one judgement: the seed comes first, the judgement once and last, and it chooses nothing."

import pytest
import torch

from kpnb.evaluation import predict
from kpnb.metrics import mae
from kpnb.models import NoseNet
from kpnb.recipes.judging import train_and_judge
from kpnb.scenes import faces

QUICK = dict(epochs=2, progress=False, device="cpu", fast=False)


def small():
    return NoseNet(1, (24, 32), channels=(4, 4, 4), hidden=8)


@pytest.fixture(scope="module")
def parts():
    return tuple(faces(n, (24, 32), seed=s, points=1, gray=True, masks=False) for n, s in ((24, 1), (8, 2)))


def judge(model, train, held):
    pred = predict(model, held, device="cpu")
    return {"mae": mae(pred, held.keypoints, held.visible)}, pred


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(parts):
    first = train_and_judge(small, parts, judge, seed=3, **QUICK)
    torch.rand(7)
    second = train_and_judge(small, parts, judge, seed=3, **QUICK)
    other = train_and_judge(small, parts, judge, seed=4, **QUICK)
    assert torch.equal(first.pred, second.pred) and first["mae"] == second["mae"]
    assert not torch.equal(first.pred, other.pred)


def test_to_watch_the_held_part_changes_nothing(parts):
    blind, watching = (train_and_judge(small, parts, judge, watch=w, **QUICK) for w in (False, True))
    assert torch.equal(blind.pred, watching.pred)
    assert "valid_loss" in watching.history.rows[-1] and "valid_loss" not in blind.history.rows[-1]


def test_the_judge_is_called_once_with_a_trained_network_and_both_parts(parts):
    calls = []

    def note(model, train, held):
        calls.append((model.training, train, held))
        return judge(model, train, held)

    result = train_and_judge(small, parts, note, **QUICK)
    assert len(calls) == 1 and not calls[0][0]
    assert calls[0][1] is parts[0] and calls[0][2] is parts[1] is result.held
    assert result.seconds == pytest.approx(sum(result.history["seconds"]))


def test_weights_chosen_on_the_part_that_judges_are_refused(parts):
    with pytest.raises(ValueError, match="restore_best is True; expected False"):
        train_and_judge(small, parts, judge, restore_best=True, **QUICK)


def test_a_measure_that_was_not_made_is_named_with_those_that_were(parts):
    result = train_and_judge(small, parts, judge, **QUICK)
    with pytest.raises(KeyError, match="'nme' was not measured; choose from mae"):
        result["nme"]
    assert "mae" in repr(result) and "Conv2d" not in repr(result)
