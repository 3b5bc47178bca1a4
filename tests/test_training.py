"""Training survives what really happens: a process that is killed.

It dies in the middle of an epoch, and while its files are being written.
"""

import functools
import linecache
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from kpnb.core import make_generator, seed_everything
from kpnb.geometry import Augment, KeypointDataset
from kpnb.heatmap_losses import HeatmapLoss
from kpnb.segmentation import fit_masks
from kpnb.training import (
    History,
    evaluate,
    fit,
    known_mode,
    load_checkpoint,
    masked_mean,
    mean_points,
    point_mse,
    predict,
    r_and_skill,
    random_states,
    restore_random,
    save_checkpoint,
)
from kpnb.uncertainty import MapCrossEntropy

EPOCHS, KILLED_AFTER = 5, 2  # whole epochs when the process dies

# Trains a tiny network for 5 epochs of 6 batches.
# At the place named by `stop` it says so on stdout, and waits there to be killed.
# Dropout and the augmentation draw from every random generator that there is.
SCRIPT = """
import builtins, os, random, re, sys, time
import numpy as np, torch
from torch import nn
from kpnb import core, training
from kpnb.core import seed_everything
from kpnb.geometry import KeypointDataset

folder, stop, resume = sys.argv[1], sys.argv[2], sys.argv[3] == "resume"
g = torch.Generator().manual_seed(0)
make = lambda n: KeypointDataset(torch.randint(0, 255, (n, 1, 16, 24), generator=g).byte(), \
torch.rand(n, 1, 2, generator=g) * 16)
train, valid = make(96), make(32)
seed_everything(1 if not resume else 99) # what a resumed process draws before must not matter
model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), \
nn.Dropout(0.2), nn.Linear(4 * 7 * 11, 2), nn.Unflatten(1, (1, 2)))

def here():
    print("here", flush=True)
    time.sleep(300)

batches = 0
def augment(batch, generator):
    global batches
    batches += 1
    if stop == "epoch" and batches == 16: here()
    extra = 0.1 * random.random() + 0.1 * np.random.rand() + 0.1 * random.gauss(0, 1)
    return batch | {"image": batch["image"] + extra \
+ 0.05 * torch.randn(batch["image"].shape, generator=generator)}

# How often each file has been opened for writing and has been replaced. The third time is the one to die in.
opened, replaced = {}, {}

class Half:
    "a file that stops in the middle of its data"
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, data):
        self.file.write(bytes(data)[: len(data) // 2]); self.file.flush()
        here()

def counted(counts, path):
    name = re.sub(r"^\\.(.*)\\.[0-9a-f-]+\\.part$", r"\\1", \
os.path.basename(str(path)))  # of the file that a temporary one stands for
    counts[name] = counts.get(name, 0) + 1
    return name, counts[name]

def watched_open(path, mode="r", *args, **kw):
    file = builtins.open(path, mode, *args, **kw)
    if mode != "xb": return file
    return Half(file) if stop == "half of " + counted(opened, path)[0] and opened[stop[8:]] == 3 else file

fsync, replace = os.fsync, os.replace
def watched_fsync(handle):
    if stop == "before fsync" and opened.get("checkpoint", 0) == 3: here()
    fsync(handle)

def watched_replace(a, b):
    name, times = counted(replaced, b)
    if stop == "before renaming " + name and times == 3: here()
    replace(a, b)
    if stop == "after renaming " + name and times == 3: here()

core.open, os.fsync, os.replace = watched_open, watched_fsync, watched_replace
history = training.fit(model, train, valid, epochs=5, batch_size=16, lr=5e-3, augment=augment, patience=4, \
checkpoint=f"{folder}/checkpoint", csv=f"{folder}/log.csv",
                       resume=resume, device="cpu", progress=False)
torch.save({"weights": model.state_dict(), "loss": history["train_loss"], "valid": history["valid_loss"], \
"best": history.best_epoch, "stopped": history.stopped}, f"{folder}/result")
"""


def run(folder: Path, stop: str = "never", resume: bool = False) -> None:
    "Train in another process; with `stop`, kill it (SIGKILL, on Windows TerminateProcess) where it says."
    command = [sys.executable, "-c", SCRIPT, str(folder), stop, "resume" if resume else "start"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "KPNB_DEVICE": "cpu"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            if stop == "never":
                err = process.communicate(timeout=240)[1]
                assert process.returncode == 0, err
                return
            assert process.stdout.readline() == "here\n", process.communicate()[1]
        finally:
            process.kill()
        process.communicate()
        assert process.returncode != 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    "The result of a training that nobody disturbs."
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return torch.load(folder / "result", weights_only=True)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    "The folder of a training that was killed in the middle of an epoch."
    folder = tmp_path_factory.mktemp("killed")
    run(folder, "epoch")
    return folder


def same(folder: Path, whole: dict) -> None:
    "A result equals the undisturbed one to the last bit, and so does its table."
    result = torch.load(folder / "result", weights_only=True)
    assert {k: v for k, v in result.items() if k != "weights"} == {
        k: v for k, v in whole.items() if k != "weights"
    }
    for name, value in whole["weights"].items():
        assert torch.equal(result["weights"][name], value), name
    log = pd.read_csv(folder / "log.csv", float_precision="round_trip")  # pandas 2 would else lose a last bit
    assert log.epoch.tolist() == list(range(1, EPOCHS + 1)) and log.notna().all().all()
    assert log.train_loss.tolist() == whole["loss"]


# The CSV is written before the checkpoint, so it may be one epoch ahead of it.
PLACES = {
    "epoch": 2,
    "half of log.csv": 2,
    "before renaming log.csv": 2,
    "half of checkpoint": 3,
    "before fsync": 3,
    "before renaming checkpoint": 3,
}


@pytest.mark.parametrize("stop", PLACES)
def test_killed_and_resumed_training_is_equal_to_the_last_bit(tmp_path, whole, stop):
    run(tmp_path, stop)
    assert not (tmp_path / "result").exists()
    kept = torch.load(tmp_path / "checkpoint", weights_only=True)
    assert len(kept["rows"]) == KILLED_AFTER, "the checkpoint of the last whole epoch is still there"
    assert pd.read_csv(tmp_path / "log.csv").epoch.tolist() == list(range(1, PLACES[stop] + 1)), (
        "no half line, no line twice"
    )
    run(tmp_path, resume=True)
    same(tmp_path, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "log.csv", "result"], (
        "what the kill left behind is gone"
    )


def test_killed_again_and_again(tmp_path, whole, killed):
    "Killed in an epoch, then right after the last checkpoint: nothing is lost and nothing is counted twice."
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    for stop, epochs in (("after renaming checkpoint", 5), ("never", 5)):
        run(tmp_path, stop, resume=True)
        assert len(torch.load(tmp_path / "checkpoint", weights_only=True)["rows"]) == epochs
    same(tmp_path, whole)


@pytest.mark.parametrize("part", ["shuffle", "torch", "python", "numpy"])
def test_each_random_state_matters(tmp_path, whole, killed, part):
    "The tests above can fail: with another state of any one generator the resumed training goes elsewhere."
    content, fresh = torch.load(killed / "checkpoint", weights_only=True), _other_states()
    content["random"][part] = fresh[part]
    save_checkpoint(tmp_path / "checkpoint", content)
    run(tmp_path, resume=True)
    assert torch.load(tmp_path / "result", weights_only=True)["loss"] != whole["loss"]


def _other_states() -> dict:
    g = make_generator(99)
    before = random_states(g)
    seed_everything(99)
    other = random_states(g)
    restore_random(before, g)
    return other


# From here on everything happens in this process, on pictures of 8×12 pixels.


def dots(n=8, seed=0, points=1, **kw) -> KeypointDataset:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 255, (n, 1, 8, 12), generator=g).byte()
    return KeypointDataset(images, torch.rand(n, points, 2, generator=g) * 8, **kw)


def net(activation=nn.ReLU, points=1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(96, 8), activation(), nn.Linear(8, 2 * points), nn.Unflatten(1, (points, 2))
    )


def maps() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 1, 3, padding=1)


def train(path=None, model=None, data=None, valid=None, **settings):
    "A tiny training; with a path, of a checkpoint."
    usual = dict(epochs=1, batch_size=4, device="cpu", progress=False, checkpoint=path)
    model = net() if model is None else model
    return fit(model, dots() if data is None else data, valid, **(usual | settings))


# --- a monitor knows its direction


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


# --- resuming under other settings


def scaled(factor):
    return lambda output, batch: factor * point_mse(output, batch)


def scaled_by_first(factors):
    return lambda output, batch: factors[0] * point_mse(output, batch)


def with_default(factor):
    def loss(output, batch, factor=factor):
        return factor * point_mse(output, batch)

    return loss


class Own:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, output, batch):
        return self.factor * point_mse(output, batch)


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, output, batch):
        return self.factor * point_mse(output, batch)


def once(output, batch):
    return point_mse(output, batch)


def twice(output, batch):
    return point_mse(output, batch) * 2


def weigh(values, factor):
    return values * factor


def times(amount):
    return lambda x: x * amount


def brighter(amount):
    return Augment(degrees=0, scale=(1, 1), shift=0, colour=times(amount))


def turned(degrees, colour=None):
    return Augment(degrees=degrees, scale=(1, 1), shift=0, colour=colour or torch.clone)


def wide(amount):
    return lambda batch: amount


def jitter(amount):
    from torchvision.transforms import v2

    return Augment(
        degrees=0,
        scale=(1, 1),
        shift=0,
        colour=v2.Compose([v2.GaussianBlur(3), v2.Lambda(times(amount)), v2.Normalize([amount], [1.0])]),
    )


def sgd(momentum):
    return functools.partial(torch.optim.SGD, momentum=momentum)


def steps(factor):
    return lambda o, lr, n: torch.optim.lr_scheduler.LambdaLR(o, lambda i: factor)


def frozen(how):
    model = net()
    model[1].weight.requires_grad_(how)
    return model


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.inner, self.factor = net(), factor

    def forward(self, x):
        return self.inner(x) * self.factor


def edited(how):
    "The same class with another `forward`."
    forwards = [lambda self, x: self.inner(x), lambda self, x: self.inner(x).tanh()]
    return type("Edited", (Scaled,), {"__module__": __name__, "forward": forwards[how]})(1.0)


class Lazy:
    "a source that is no KeypointDataset"

    def __init__(self, ds):
        self.ds = ds

    def __len__(self):
        return len(self.ds)

    def batches(self, *args, **kw):
        return self.ds.batches(*args, **kw)


def black(n, of=6400, lazy=False):
    data = dots(of)
    data.images[torch.arange(n) * 100 + 1] = 0  # not those that a sample of a few would show
    return Lazy(data) if lazy else data


def moved(by):
    data = dots()
    data.keypoints[3] += by
    return data


OTHER = {  # what is changed -> (function, its argument at first, and later)
    "partial": (lambda k: {"loss": functools.partial(Own.__call__, Own(k))}, 1, 2),
    "partial keyword": (lambda k: {"loss": functools.partial(with_default(1), factor=k)}, 1, 2),
    "lambda": (lambda k: {"loss": [lambda o, b: point_mse(o, b), lambda o, b: point_mse(o, b) * 2][k]}, 0, 1),
    "constant of a lambda": (
        lambda k: {"loss": [lambda o, b: 2 * point_mse(o, b), lambda o, b: 3 * point_mse(o, b)][k]},
        0,
        1,
    ),
    "closure": (lambda k: {"loss": scaled(k)}, 1, 2),
    "function in a closure": (lambda k: {"loss": scaled(torch.tensor(k))}, 1.0, 2.0),
    "default argument": (lambda k: {"loss": with_default(k)}, 1, 2),
    "own object": (lambda k: {"loss": Own(k)}, 1, 2),
    "object with slots": (lambda k: {"loss": Slotted(k)}, 1, 2),
    "MapCrossEntropy": (lambda k: {"loss": MapCrossEntropy(k), "model": maps(), "decode": None}, 2.0, 9.0),
    "HeatmapLoss with a function": (
        lambda k: {"loss": HeatmapLoss(sigma=wide(k)), "model": maps(), "decode": None},
        2.0,
        9.0,
    ),
    "HeatmapLoss beside its function": (
        lambda k: {"loss": HeatmapLoss(k, wide(2.0)), "model": maps(), "decode": None},
        "bce",
        "focal",
    ),
    "augmentation": (lambda k: {"augment": turned(k)}, 0.0, 90.0),
    "colour function": (lambda k: {"augment": brighter(k)}, 0.5, 0.9),
    "torchvision transform": (lambda k: {"augment": jitter(k)}, 0.2, 0.3),
    "metric": (lambda k: {"metrics": {"a": scaled(k)}, "valid": dots()}, 1, 2),
    "name of a metric": (lambda k: {"metrics": {k: once}, "valid": dots()}, "a", "b"),
    "decode": (lambda k: {"decode": [lambda o, b: o * 4, lambda o, b: o * 5][k], "valid": dots()}, 0, 1),
    "optimizer": (lambda k: {"optimizer": sgd(k)}, 0.5, 0.9),
    "schedule": (lambda k: {"schedule": steps(k)}, 0.5, 0.9),
    "activation": (lambda k: {"model": net([nn.ReLU, nn.Tanh][k])}, 0, 1),
    "setting of a layer": (lambda k: {"model": net(lambda: nn.LeakyReLU(k))}, 0.1, 0.2),
    "field of a network": (lambda k: {"model": Scaled(k)}, 1.0, 2.0),
    "forward of a network": (lambda k: {"model": edited(k)}, 0, 1),
    "list of a closure": (lambda k: {"loss": scaled_by_first(k)}, [1.0, 2.0], [3.0, 2.0]),
    "frozen weights": (lambda k: {"model": frozen(k)}, True, False),
    "pictures": (lambda k: {"data": black(k), "batch_size": 640}, 0, 49),
    "pictures of a lazy source": (lambda k: {"data": black(k, 40, True)}, 0, 1),
    "points": (lambda k: {"data": moved(k)}, 0.0, 0.25),
    "pairs": (lambda k: {"data": dots(points=2, pairs=k), "model": net(points=2)}, [], [(0, 1)]),
}


@pytest.mark.parametrize("what", OTHER)
def test_resuming_with_something_else_is_refused_and_with_the_same_is_not(tmp_path, what):
    make, then, now = OTHER[what]
    before = train(tmp_path / "c", **make(then))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = train(tmp_path / "c", **make(then), resume=True)
    assert again.rows == before.rows
    with pytest.raises(ValueError, match="was made with .*, and now it is"):
        train(tmp_path / "c", **make(now), resume=True)


def test_a_global_function_that_a_loss_uses_counts(tmp_path, monkeypatch):
    def loss(output, batch):
        return weigh(point_mse(output, batch), 1.0)

    train(tmp_path / "c", loss=loss)
    train(tmp_path / "c", loss=loss, resume=True)
    monkeypatch.setitem(globals(), "weigh", lambda values, factor: values * 3 * factor)
    with pytest.raises(ValueError, match="loss weigh .*and now it is"):
        train(tmp_path / "c", loss=loss, resume=True)


FACTOR = 1.0


def test_a_global_number_that_a_loss_uses_is_said(tmp_path, monkeypatch):
    def loss(output, batch):
        return FACTOR * point_mse(output, batch)

    train(tmp_path / "c", loss=loss)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.warns(UserWarning, match=r"loss FACTOR \(global\) = 1.0, and now it is 2.0"):
        train(tmp_path / "c", loss=loss, resume=True)


def test_what_nobody_can_look_into_is_said(tmp_path):
    g = torch.Generator().manual_seed(0)

    def noisy(batch, generator):
        return batch | {"image": batch["image"] + torch.rand(1, generator=g)}

    train(tmp_path / "c", augment=noisy)
    with pytest.warns(UserWarning, match=r"cannot be told.* augment g \(closure\) \(a Generator"):
        train(tmp_path / "c", augment=noisy, resume=True)


def test_a_counter_that_runs_while_training_hinders_nobody_but_is_said(tmp_path):
    seen, once_more = [], Own(1)
    once_more.calls = 0

    def counting(batch, generator):
        seen.append(len(seen))
        once_more.calls += 1
        return batch

    train(tmp_path / "c", augment=counting)
    with pytest.warns(UserWarning, match="does not hold what changes while training: .*augment seen"):
        train(tmp_path / "c", augment=counting, resume=True)


def test_a_source_that_gives_other_pictures_each_time_is_said(tmp_path):
    class Random(Lazy):
        def batches(self, *args, **kw):
            for batch in self.ds.batches(*args, **kw):
                yield batch | {"image": batch["image"] * random.random()}

    before = random.getstate()
    train(tmp_path / "c", data=Random(dots()))
    assert random.getstate() == before, "your own random numbers go on as if nothing had happened"
    with pytest.warns(UserWarning, match="cannot be told.* train .*other pictures each time"):
        train(tmp_path / "c", data=Random(dots()), resume=True)


def test_places_of_points_that_are_not_visible_are_no_other_data(tmp_path):
    def data(place):
        ds = dots()
        hidden = ds.keypoints.clone()
        hidden[2] = place
        return KeypointDataset(ds.images, hidden, torch.arange(8)[:, None] != 2)

    train(tmp_path / "c", data=data(math.nan))
    train(tmp_path / "c", data=data(1e9), resume=True)


# --- checkpoints that are damaged, or cannot be used


def test_two_that_write_one_checkpoint_never_leave_an_unreadable_one(tmp_path):
    path, content = tmp_path / "c", {"settings": {"lr": 0.1}, "w": torch.ones(2000)}
    save_checkpoint(path, content)
    errors = []

    def write():
        try:
            for _ in range(25):
                save_checkpoint(path, content)
        except Exception as e:
            errors.append(e)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for w in writers:
        w.start()
    while any(w.is_alive() for w in writers):
        assert torch.equal(load_checkpoint(path, {"lr": 0.1})["w"], content["w"])
    assert not errors
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory) -> Path:
    "A checkpoint after two of three epochs, and the data."
    path = tmp_path_factory.mktemp("two") / "c"
    train(path, valid=dots(seed=1), epochs=3, callbacks=lambda m, h: len(h) == 2, optimizer="adam")
    return path


def resume(path, **kw):
    return train(path, valid=dots(seed=1), epochs=3, optimizer="adam", resume=True, **kw)


def test_no_flipped_bit_goes_unnoticed(two_epochs, tmp_path):
    data, flips = two_epochs.read_bytes(), random.Random(0)
    whole = torch.load(two_epochs, weights_only=True)
    noticed = 0
    for _ in range(100):
        broken, at = bytearray(data), flips.randrange(len(data))
        broken[at] ^= 1 << flips.randrange(8)
        (tmp_path / "c").write_bytes(broken)
        try:
            found = load_checkpoint(tmp_path / "c", whole["settings"])
        except ValueError as e:
            assert str(tmp_path / "c") in str(e)
            noticed += 1
        else:  # in the file's padding
            assert all(repr(found[k]) == repr(whole[k]) for k in found)
            assert all(torch.equal(found["model"][k], v) for k, v in whole["model"].items())
    assert noticed > 50


def test_a_damaged_part_has_a_name(two_epochs, tmp_path):
    content = torch.load(two_epochs, weights_only=True)
    content["best"]["1.weight"][0, 0] += 1e-6
    content["rows"][1]["lr"] *= 2
    torch.save(content, tmp_path / "c")
    with pytest.raises(ValueError, match="best 1.weight, rows is not what was saved"):
        resume(tmp_path / "c")


def test_a_checkpoint_of_an_older_version_is_refused_with_a_reason(two_epochs, tmp_path):
    content = torch.load(two_epochs, weights_only=True)
    del content["digest"]
    torch.save(content, tmp_path / "c")
    with pytest.raises(ValueError, match="holds no digest.*older kpnb"):
        resume(tmp_path / "c")


def _cut(part, key):
    return lambda c: c[part].pop(key)


def _put(part, key, value):
    return lambda c: c[part].__setitem__(key, value)


def _without(part):
    return lambda c: c.pop(part)


def _all(part, value):
    return lambda c: c.__setitem__(part, value)


UNUSABLE = {
    "rows missing": (_without("rows"), "rows is missing"),
    "rows empty": (_all("rows", []), "rows"),
    "rows shorter": (lambda c: c["rows"].pop(), "rows has 1 entries"),
    "rows longer": (lambda c: c["rows"].append(c["rows"][0]), "rows"),
    "rows in disorder": (lambda c: c["rows"].reverse(), r"rows\[0\] is of epoch 2"),
    "a row of text": (_all("rows", ["a", "b"]), "rows"),
    "a column less": (lambda c: c["rows"][1].pop("valid_loss"), r"rows\[1\]"),
    "a loss of text": (lambda c: c["rows"][1].update(lr="x"), "lr is"),
    "best missing": (_without("best"), "best is missing"),
    "best None": (_all("best", None), "best is None"),
    "best of another shape": (_put("best", "1.weight", torch.ones(8, 95)), "best 1.weight is float32"),
    "best lacks one": (_cut("best", "3.bias"), "best 3.bias is missing"),
    "best has one more": (_put("best", "9.bias", torch.ones(1)), "best 9.bias is no weight"),
    "model of another shape": (_put("model", "1.bias", torch.ones(9)), "model 1.bias"),
    "model of another type": (_put("model", "1.bias", torch.ones(8).double()), "model 1.bias is float64"),
    "model missing": (_without("model"), "model is missing"),
    "optimizer missing": (_without("optimizer"), "optimizer is missing"),
    "optimizer empty": (_all("optimizer", {}), "optimizer"),
    "no state": (_put("optimizer", "state", {}), "optimizer state"),
    "state of one weight less": (lambda c: c["optimizer"]["state"].pop(2), "optimizer state is for 3"),
    "a moment less": (lambda c: c["optimizer"]["state"][1].pop("exp_avg"), r"optimizer state\[1\]"),
    "moments less": (lambda c: [s.pop("exp_avg") for s in c["optimizer"]["state"].values()], "optimizer"),
    "a moment of another shape": (
        lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.ones(3)),
        "optimizer",
    ),
    "no groups": (_put("optimizer", "param_groups", []), "param_groups"),
    "a group of fewer": (
        lambda c: c["optimizer"]["param_groups"][0]["params"].pop(),
        r"param_groups\[0\] is for 3",
    ),
    "no betas": (lambda c: c["optimizer"]["param_groups"][0].pop("betas"), "betas"),
    "schedule missing": (_without("schedule"), "schedule is missing"),
    "schedule None": (_all("schedule", None), "schedule is None"),
    "schedule lacks one": (_cut("schedule", "last_epoch"), "schedule last_epoch"),
    "schedule at another step": (_put("schedule", "last_epoch", 3), "schedule last_epoch is 3"),
    "schedule of another length": (_put("schedule", "total_steps", 60), "schedule total_steps is 60"),
    "random missing": (_without("random"), "random is missing"),
    "shuffle cut": (lambda c: c["random"].update(shuffle=c["random"]["shuffle"][:100]), "random shuffle"),
    "torch missing": (_cut("random", "torch"), "random torch is missing"),
    "python cut": (lambda c: c["random"].update(python=c["random"]["python"][:99]), "random python"),
    "numpy cut": (lambda c: c["random"]["numpy"].__setitem__(1, c["random"]["numpy"][1][:9]), "random numpy"),
    "numpy out of place": (lambda c: c["random"]["numpy"].__setitem__(2, 9e9), "random numpy"),
    "counts missing": (_without("counts"), "counts is missing"),
    "counts of text": (_put("counts", "steps", "4"), "counts steps"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_all_of_a_checkpoint_is_checked_before_the_first_weight_is_touched(two_epochs, tmp_path, what):
    change, field = UNUSABLE[what]
    content = torch.load(two_epochs, weights_only=True)
    change(content)
    save_checkpoint(tmp_path / "c", content)
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=field) as error:
        resume(tmp_path / "c", model=model)
    assert str(tmp_path / "c") in str(error.value) and len(str(error.value)) < 2000
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_several_faults_are_named_at_once(two_epochs, tmp_path):
    content = torch.load(two_epochs, weights_only=True)
    del content["model"]["1.bias"], content["random"]["numpy"]
    save_checkpoint(tmp_path / "c", content)
    with pytest.raises(ValueError) as error:
        resume(tmp_path / "c")
    assert "model 1.bias is missing" in str(error.value) and "random numpy is missing" in str(error.value)


@pytest.mark.parametrize(
    "how",
    [
        {"optimizer": "sgd"},
        {"optimizer": sgd(0.9), "schedule": steps(0.5)},
        {"schedule": None},
        {"optimizer": lambda p, lr: torch.optim.RMSprop(p, lr)},
        {"schedule": "cosine", "optimizer": functools.partial(torch.optim.AdamW, amsgrad=True)},
    ],
)
def test_a_good_checkpoint_of_any_optimizer_can_be_used(tmp_path, how):
    whole, halves = net(), net()
    train(model=whole, epochs=4, restore_best=False, **how)
    train(tmp_path / "c", model=net(), epochs=4, callbacks=lambda m, h: len(h) == 2, **how)
    assert len(train(tmp_path / "c", model=halves, epochs=4, restore_best=False, resume=True, **how)) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), halves.state_dict().values()))
    assert len(train(tmp_path / "c", model=halves, epochs=4, resume=True, **how)) == 4, (
        "a finished one can be looked at again"
    )


def test_an_optimizer_with_the_networks_own_groups_resumes_without_touching_it(tmp_path):
    def grouped(model):
        return lambda p, lr: torch.optim.SGD(
            [{"params": model[1].parameters(), "lr": lr / 10}, {"params": model[3].parameters()}],
            lr,
            momentum=0.9,
        )

    whole, first, halves = net(), net(), net()
    run = dict(epochs=3, restore_best=False, schedule=None)
    train(model=whole, optimizer=grouped(whole), **run)
    train(tmp_path / "c", model=first, optimizer=grouped(first), **run, callbacks=lambda m, h: len(h) == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(tmp_path / "c", model=halves, optimizer=grouped(halves), **run, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), halves.state_dict().values()))


# --- interruptions, names, nothing to learn from


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
            if not frame.f_code.co_filename.endswith(os.path.join("kpnb", "training.py")):
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


@pytest.mark.parametrize("name", ["mse", "loss", "R", "skill", "error_px", "n_ignored"])
def test_a_metric_may_not_take_the_name_of_a_number_that_is_there(name):
    metrics = {name: lambda o, b: 1000.0}
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        evaluate(net(), dots(), metrics=metrics)
    model = net()
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        train(model=model, valid=dots(), metrics=metrics)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), net().parameters())), (
        "before the first step"
    )


def test_metrics_are_names_and_functions():
    for wrong in ({"a": 1.0}, {3: once}, [once]):
        with pytest.raises(ValueError, match="metrics"):
            evaluate(net(), dots(), metrics=wrong)


def test_a_metric_that_fails_leaves_the_session_as_it_was():
    def broken(output, batch):
        raise KeyError("broken")

    model = net()
    for look in (
        lambda: evaluate(model, dots(), metrics={"a": broken}),
        lambda: predict(model, dots(), decode=broken),
    ):
        with pytest.raises(KeyError) as kept:  # as a notebook keeps the last error, with all its frames
            look()
        assert torch.is_grad_enabled() and model.training, kept


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


def test_a_history_shows_no_markup():
    rows = [{"epoch": 1, "valid_loss": 1.0, "<b>x</b>": 2.0}]
    for h in (History(rows, stopped="<script>alert(1)</script>"), History(stopped="<script>")):
        shown = h._repr_html_()
        assert "<script" not in shown and "&lt;script&gt;" in shown and "<b>x" not in shown


# --- numbers


def test_whole_number_coordinates_give_the_results_of_floats():
    g = torch.Generator().manual_seed(0)
    for _ in range(10):
        pred, kp = torch.randint(0, 30, (2, 7, 3, 2), generator=g)
        seen = torch.rand(7, 3, generator=g) < 0.8
        mean = mean_points(kp, seen)
        assert mean.is_floating_point()
        assert torch.allclose(mean, mean_points(kp.float(), seen), equal_nan=True)
        assert r_and_skill(pred, kp, seen) == pytest.approx(
            r_and_skill(pred.float(), kp.float(), seen), nan_ok=True
        )
        train_mean = torch.rand(3, 2, generator=g) * 30
        assert r_and_skill(pred, kp, seen, train_mean) == pytest.approx(
            r_and_skill(pred.float(), kp.float(), seen, train_mean), nan_ok=True
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masked_mean_of_half_precision_does_not_overflow(dtype):
    values = torch.full((40, 100), 600.0, dtype=dtype, requires_grad=True)
    seen = torch.ones(40, 100, dtype=torch.bool)
    mean = masked_mean(values, seen)
    mean.backward()
    assert (
        mean.dtype == dtype
        and mean.item() == 600
        and values.grad.isfinite().all()
        and (values.grad > 0).all()
    )
    assert (
        float(masked_mean(torch.ones(400, 200, dtype=dtype), torch.ones(400, 200, dtype=torch.bool))) == 1
    ), "more than 65504 of them"
    assert float(
        masked_mean(torch.tensor([[1, 2], [4, 9]]), torch.tensor([[True, True], [True, False]]))
    ) == pytest.approx(7 / 3)


class Answer(nn.Module):
    "a network that answers what it is told"

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x):
        return self.answer


def test_coordinates_of_points_that_are_not_visible_change_nothing():
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        ds = dots(6, seed=int(torch.randint(99, (1,), generator=g)), points=3)
        seen = torch.rand(6, 3, generator=g) < 0.6
        seen[0, 0], seen[1, 0], answer = True, True, torch.randn(6, 3, 2, generator=g)
        found = []
        for place in (math.nan, 0.0, -1.0, 1e9, math.inf):
            kp = torch.where(seen[..., None], ds.keypoints, place)
            out = torch.where(seen[..., None], answer, place)
            data = KeypointDataset(ds.images, kp, seen)
            batch = {"image": ds.images, "keypoints": kp, "visible": seen}
            points, mean = predict(Answer(out), data), mean_points(kp, seen)
            found.append(
                [
                    float(masked_mean(kp[..., 0], seen)),
                    float(point_mse(out, batch)),
                    *mean.flatten().tolist(),
                    *r_and_skill(points, kp, seen),
                    *r_and_skill(points, kp, seen, torch.full((3, 2), 4.0)),
                    *evaluate(Answer(out), data).values(),
                ]
            )
        for other in found[1:]:
            assert np.array_equal(found[0], other, equal_nan=True)
