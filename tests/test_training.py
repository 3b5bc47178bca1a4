"""Training survives what really happens: a process killed in the middle of an epoch, and while its files are being written."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

EPOCHS, KILLED_AFTER = 5, 2  # whole epochs when the process dies

# Trains a tiny network for 5 epochs of 6 batches. At the place named by `stop` it says so on stdout, and waits there to be killed.
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
make = lambda n: KeypointDataset(torch.randint(0, 255, (n, 1, 16, 24), generator=g).byte(), torch.rand(n, 1, 2, generator=g) * 16)
train, valid = make(96), make(32)
seed_everything(1 if not resume else 99) # what a resumed process draws before must not matter
model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 7 * 11, 2), nn.Unflatten(1, (1, 2)))

def here():
    print("here", flush=True)
    time.sleep(300)

batches = 0
def augment(batch, generator):
    global batches
    batches += 1
    if stop == "epoch" and batches == 16: here()
    extra = 0.1 * random.random() + 0.1 * np.random.rand() + 0.1 * random.gauss(0, 1)
    return batch | {"image": batch["image"] + extra + 0.05 * torch.randn(batch["image"].shape, generator=generator)}

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
    name = re.sub(r"^\\.(.*)\\.[0-9a-f-]+\\.part$", r"\\1", os.path.basename(str(path)))  # of the file that a temporary one stands for
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
history = training.fit(model, train, valid, epochs=5, batch_size=16, lr=5e-3, augment=augment, patience=4, checkpoint=f"{folder}/checkpoint", csv=f"{folder}/log.csv",
                       resume=resume, device="cpu", progress=False)
torch.save({"weights": model.state_dict(), "loss": history["train_loss"], "valid": history["valid_loss"], "best": history.best_epoch, "stopped": history.stopped}, f"{folder}/result")
"""


def run(folder: Path, stop: str = "never", resume: bool = False) -> None:
    "Train in another process; with `stop`, kill it (SIGKILL, on Windows TerminateProcess) where it says."
    command = [sys.executable, "-c", SCRIPT, str(folder), stop, "resume" if resume else "start"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "KPNB_DEVICE": "cpu"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            if stop == "never":
                err = process.communicate(timeout=240)[1]
                assert process.returncode == 0, err
                return
            assert process.stdout.readline() == "here\n", process.communicate()[1]
        finally: process.kill()
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
    assert {k: v for k, v in result.items() if k != "weights"} == {k: v for k, v in whole.items() if k != "weights"}
    for name, value in whole["weights"].items(): assert torch.equal(result["weights"][name], value), name
    log = pd.read_csv(folder / "log.csv", float_precision="round_trip")  # pandas 2 would else lose a last bit
    assert log.epoch.tolist() == list(range(1, EPOCHS + 1)) and log.notna().all().all()
    assert log.train_loss.tolist() == whole["loss"]


# The CSV is written before the checkpoint, so it may be one epoch ahead of it.
PLACES = {"epoch": 2, "half of log.csv": 2, "before renaming log.csv": 2, "half of checkpoint": 3, "before fsync": 3, "before renaming checkpoint": 3}


@pytest.mark.parametrize("stop", PLACES)
def test_killed_and_resumed_training_is_equal_to_the_last_bit(tmp_path, whole, stop):
    run(tmp_path, stop)
    assert not (tmp_path / "result").exists()
    kept = torch.load(tmp_path / "checkpoint", weights_only=True)
    assert len(kept["rows"]) == KILLED_AFTER, "the checkpoint of the last whole epoch is still there"
    assert pd.read_csv(tmp_path / "log.csv").epoch.tolist() == list(range(1, PLACES[stop] + 1)), "no half line, no line twice"
    run(tmp_path, resume=True)
    same(tmp_path, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "log.csv", "result"], "what the kill left behind is gone"


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
    torch.save(content, tmp_path / "checkpoint")
    run(tmp_path, resume=True)
    assert torch.load(tmp_path / "result", weights_only=True)["loss"] != whole["loss"]


def _other_states() -> dict:
    from kpnb.core import make_generator, seed_everything
    from kpnb.training import random_states, restore_random
    g = make_generator(99)
    before = random_states(g)
    seed_everything(99)
    other = random_states(g)
    restore_random(before, g)
    return other
