"""The loop of `fit`: interruptions, and data from which nothing can be learned."""

import linecache
import math
import os
import sys

import pytest
import torch
from small_training import Lazy, dots, net, train

from kpnb.keypoints import KeypointDataset

LOOP = tuple(os.path.join("kpnb", f"{m}.py") for m in ("training", "optimisation", "evaluation", "history"))


@pytest.mark.parametrize("part", range(4))
def test_the_history_never_names_an_epoch_whose_weights_are_not_returned(part):
    "Ctrl-C at each line of the loop's own code from the end of the second validation on, one at a time."
    weights, lines, at = [], 0, ""

    def remember(output, batch):
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return float(3 - len(weights))  # better each time

    def attempt(stop):
        def watch(frame, event, arg):
            nonlocal lines, at
            if not frame.f_code.co_filename.endswith(LOOP):
                return None
            if event == "line" and len(weights) == 2:
                lines += 1
                if lines == stop:
                    at = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                    raise KeyboardInterrupt
            return watch

        sys.settrace(watch)
        try:
            return train(
                model=model, data=data, valid=data, metrics={"error": remember}, monitor="valid_error", **two
            )
        finally:
            sys.settrace(None)

    two = dict(epochs=2, optimizer="sgd", schedule=None, decode=None)
    data, model = dots(4), net()
    history = attempt(0)
    assert history.best_epoch == 2 and lines > 50
    found = []
    for stop in range(1 + part, lines + 1, 4):
        model, lines = net(), 0
        weights.clear()
        try:
            history = attempt(stop)
        except KeyboardInterrupt:  # where no history comes back, none can name a wrong epoch
            history = None
            assert at in ("try:", "return run.history"), f"only around the last step, not at: {at}"
        found.append(None if history is None else len(history))
        assert torch.is_grad_enabled()
        if history is not None:
            best = weights[history.best_epoch - 1]
            assert all(torch.equal(v, best[k]) for k, v in model.state_dict().items()), stop
    assert {1, 2} <= set(found) and found.count(None) <= 2


@pytest.mark.parametrize("lazy", [False, True])
def test_a_training_without_a_visible_point_says_so(lazy):
    ds = dots()
    nowhere = KeypointDataset(ds.images, torch.full_like(ds.keypoints, math.nan))
    with pytest.raises(ValueError, match="nothing to learn from: in its 8 pictures no keypoint is visible"):
        train(data=Lazy(nowhere) if lazy else nowhere)


def test_a_loss_that_is_nan_for_want_of_points_says_so():
    ds = dots()
    nowhere = KeypointDataset(ds.images, ds.keypoints, torch.zeros(8, 1, dtype=torch.bool))
    with pytest.raises(FloatingPointError, match="no keypoint of this batch is visible"):
        train(data=nowhere, loss=lambda o, b: o[b["visible"]].mean())
