"""A history knows which epoch was best, or says that it cannot know."""

import pytest
import torch
from small_training import dots, train
from torch import nn

from kpnb.history import History, known_mode
from kpnb.mask_training import fit_masks


@pytest.mark.parametrize(
    "mode,names",
    {
        "min": "loss train_loss valid_loss valid_error_px valid_mse rmse nme valid_nll ece "
        "brier_score iou_loss pck_error Cross-Entropy",
        "max": "skill valid_accuracy top1_accuracy valid_iou mean_iou mIoU IoU PCK@0.1 pck_0.05 "
        "f1 valid_auc dice",
        None: "R lr valid_score scripted negative_log_likelihood accuracy_drop 1-iou loss_std "
        "valid_n_ignored gain",
    }.items(),
)
def test_a_measure_is_known_to_be_good_when_small_or_large_by_its_name(mode, names):
    assert {name: known_mode(name) for name in names.split()} == dict.fromkeys(names.split(), mode)


@pytest.mark.parametrize("name,best", {"accuracy": 2, "error": 1}.items())
def test_fit_masks_keeps_the_best_epoch_whatever_is_watched(name, best):
    script = iter([0.5, 0.9, 0.7])
    data = dots(masks=torch.ones(8, 8, 12, dtype=torch.uint8))
    seen = []
    torch.manual_seed(0)
    model = nn.Conv2d(1, 2, 1)

    def scripted(output, batch):
        seen.append(model.weight.detach().clone())
        return next(script)

    h = fit_masks(
        model,
        data,
        data,
        metrics={name: scripted},
        monitor=f"valid_{name}",
        epochs=3,
        device="cpu",
        progress=False,
    )
    assert h.best_epoch == best
    assert torch.equal(model.weight, seen[best - 1]) and not torch.equal(seen[0], seen[1])


def test_a_monitor_of_unknown_direction_asks():
    wanted = dict(valid=dots(), metrics={"speed": lambda o, b: 1.0}, monitor="valid_speed")
    with pytest.raises(ValueError, match="valid_speed.*mode='min' or mode='max'"):
        train(**wanted)
    assert train(**wanted, mode="max").best_epoch == 1
    with pytest.raises(ValueError, match="R.*mode="):
        train(valid=dots(), monitor="R")


def test_a_mode_against_the_name_is_refused():
    with pytest.raises(ValueError, match="valid_accuracy.*keep the worst epoch"):
        train(valid=dots(), metrics={"accuracy": lambda o, b: 1.0}, monitor="valid_accuracy", mode="min")


def test_a_history_made_by_hand_knows_the_direction_too():
    rows = [{"epoch": 1, "valid_accuracy": 0.5, "x": 1.0}, {"epoch": 2, "valid_accuracy": 0.9, "x": 2.0}]
    assert History(rows, monitor="valid_accuracy").best_epoch == 2
    with pytest.raises(ValueError, match="'x'"):
        History(rows, monitor="x").best


def test_a_history_shows_no_markup():
    rows = [{"epoch": 1, "valid_loss": 1.0, "<b>x</b>": 2.0}]
    for h in (History(rows, stopped="<script>alert(1)</script>"), History(stopped="<script>")):
        shown = h._repr_html_()
        assert "<script" not in shown and "&lt;script&gt;" in shown and "<b>x" not in shown
