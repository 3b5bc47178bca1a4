"""Training survives what really happens: a process that is killed, and a file that is damaged.

It dies in the middle of an epoch, and while its files are being written.
"""

import functools
import os
import random
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_training import dots, net, sgd, steps, train

from kpnb.checkpoint import load_checkpoint, random_states, restore_random, save_checkpoint
from kpnb.core import make_generator, seed_everything

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
from kpnb.keypoints import KeypointDataset

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


# --- checkpoints that are damaged, or cannot be used, in this process


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
