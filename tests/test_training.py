"""Training survives what really happens: a killed process, in the middle of an epoch and while the checkpoint is being written."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill a process without warning")

# Trains a tiny network for 5 epochs of 6 batches. With `stop` it announces a place on stdout and waits there to be killed.
SCRIPT = """
import os, sys, time, torch
from kpnb.core import seed_everything
from kpnb.geometry import KeypointDataset
from kpnb.models import NoseNet
from kpnb import training

folder, stop, resume = sys.argv[1], sys.argv[2], sys.argv[3] == "resume"
g = torch.Generator().manual_seed(0)
data = KeypointDataset(torch.randint(0, 255, (96, 1, 16, 24), generator=g).byte(), torch.rand(96, 1, 2, generator=g) * 16)
seed_everything(1)
model = NoseNet(size=(16, 24), channels=(4, 8), hidden=8)
batches, saves = 0, 0

def here():
    print("here", flush=True)
    time.sleep(120)

def augment(batch, generator):
    global batches
    batches += 1
    if stop == "epoch" and batches == 16: here()
    return batch | {"image": batch["image"] + 0.05 * torch.randn(batch["image"].shape, generator=generator) + 0.01 * torch.rand(1)}

fsync, replace = os.fsync, os.replace

def slow_fsync(handle):
    global saves
    if stop == "write" and saves == 2:  # half of the third checkpoint is on the disk
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        here()
    fsync(handle)

def slow_replace(a, b):
    global saves
    if str(b).endswith("checkpoint"):
        if stop == "rename" and saves == 2: here()
        saves += 1
    replace(a, b)

def watched_fsync(handle):
    name = os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self/fd") else "checkpoint.part"
    slow_fsync(handle) if name.endswith("checkpoint.part") else fsync(handle)

os.fsync, os.replace = watched_fsync, slow_replace
history = training.fit(model, data, data, epochs=5, batch_size=16, lr=5e-3, augment=augment, patience=4, checkpoint=f"{folder}/checkpoint", csv=f"{folder}/log.csv",
                       resume=resume, device="cpu", progress=False)
torch.save({"weights": model.state_dict(), "loss": history["train_loss"]}, f"{folder}/result")
"""


def run(folder: Path, stop: str = "never", resume: bool = False) -> None:
    "Train in another process; with `stop`, kill it where it says."
    command = [sys.executable, "-c", SCRIPT, str(folder), stop, "resume" if resume else "start"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "KPNB_DEVICE": "cpu"})
    if stop != "never":
        assert process.stdout.readline() == "here\n", process.communicate()[1]
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    "The result of a training that nobody disturbs."
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return torch.load(folder / "result", weights_only=True)


@pytest.mark.parametrize("stop, epochs", [("epoch", 2), ("write", 2), ("rename", 2)])
def test_killed_and_resumed_training_is_equal_to_the_last_bit(tmp_path, whole, stop, epochs):
    run(tmp_path, stop)
    assert not (tmp_path / "result").exists()
    kept = torch.load(tmp_path / "checkpoint", weights_only=True)
    assert len(kept["rows"]) == epochs, "the checkpoint of the last whole epoch is still there"
    assert len(pd.read_csv(tmp_path / "log.csv")) in (epochs, epochs + 1)
    run(tmp_path, resume=True)
    result = torch.load(tmp_path / "result", weights_only=True)
    assert result["loss"] == whole["loss"]
    for name, value in whole["weights"].items(): assert torch.equal(result["weights"][name], value), name
    log = pd.read_csv(tmp_path / "log.csv")
    assert log.epoch.tolist() == list(range(5)) and log.notna().all().all()
    assert log.train_loss.tolist() == pytest.approx(whole["loss"], abs=0, rel=1e-15)


def test_resuming_without_what_was_saved_would_differ(tmp_path, whole):
    "The test above can fail: leaving out the random states gives other weights."
    run(tmp_path, "epoch")
    content = torch.load(tmp_path / "checkpoint", weights_only=True)
    content["random"]["shuffle"] = torch.Generator().manual_seed(99).get_state()
    torch.save(content, tmp_path / "checkpoint")
    run(tmp_path, resume=True)
    assert torch.load(tmp_path / "result", weights_only=True)["loss"] != whole["loss"]
