"""An epoch on an accelerator is looked at now and then; it must tell what an epoch on a CPU tells."""

import pytest
import torch
from small_training import dots, net

from kpnb.evaluation import point_mse
from kpnb.optimisation import TrainingDiverged, train_epoch


def epoch(data, look_every=None, spoil=(), **kw):
    "One epoch of batches of 3, with NaN in the pictures of some batches, counted from 1."
    model, batches = net(points=2), list(data.batches(3, device="cpu"))
    for at in spoil:
        batches[at - 1]["image"][0] = float("nan")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return train_epoch(model, batches, optimizer, look_every=look_every, **kw), model


def hidden(n):
    data = dots(n, points=2)
    data.visible[:4] = False
    data.visible[9, 1] = False
    return data


def pictures(output, batch):
    return point_mse(output, batch)  # counts pictures, for it has no `batch_weight`


@pytest.mark.parametrize("loss", [point_mse, pictures])
@pytest.mark.parametrize("look_every", [2, 5, 100])
def test_looking_less_often_changes_no_bit(look_every, loss):
    row, model = epoch(hidden(23), loss=loss)
    later, same = epoch(hidden(23), look_every, loss=loss)
    assert row == later and row["n_ignored"] == 9 and row["n_train"] == 23
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters()))


@pytest.mark.parametrize("look_every", [1, 2, 5, 100])
@pytest.mark.parametrize("first", [1, 2, 5, 8])
def test_the_first_bad_batch_is_named_whenever_one_looks(look_every, first):
    with pytest.raises(
        TrainingDiverged, match=f"loss is nan in epoch 1, batch {first}, .*pictures hold values"
    ):
        epoch(dots(23, points=2), look_every, spoil=range(first, 9))


def test_whoever_is_called_after_each_batch_gets_a_number_to_show():
    seen = []
    epoch(dots(7, points=2), on_batch=lambda epoch, i, loss: seen.append(f"{epoch} {i} {loss:.4g}"))
    assert [s.split()[1] for s in seen] == ["1", "2", "3"] and all(float(s.split()[2]) > 0 for s in seen)
