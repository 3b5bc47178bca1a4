"""A grid survives what really happens: a process killed in the middle of a training, and two processes that share one study."""
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("optuna")
from kpnb.sweep import as_table, grid_study, run  # noqa: E402

# Measures 2 × 3 cells and writes down what it begins and what it finishes. In the cell named by `stop` it says so, and waits there to be killed.
SCRIPT = """
import sys, time
from pathlib import Path
from kpnb.sweep import grid_study, run

folder, me, stop, pause = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])

def objective(cell):
    text = f"{cell['lr']} {cell['decay']}"
    with open(folder / f"{me}.begun", "a") as f: f.write(text + "\\n")
    if text == stop:
        print("here", flush=True)
        time.sleep(300)
    time.sleep(pause)
    with open(folder / f"{me}.done", "a") as f: f.write(text + "\\n")
    return {"loss": cell["lr"] + cell["decay"]}

study = grid_study(objective, {"lr": [1, 2], "decay": [0.0, 0.5, 0.25]}, folder / "sweep.db", metrics=["loss"], maximise=False)
print("ready", flush=True)
if stop == "together": sys.stdin.readline()
run(study, beat=0.2, grace=2.5, progress=False)
print(len(study.states()["COMPLETE"]), flush=True)
"""
GRID = {"lr": [1, 2], "decay": [0.0, 0.5, 0.25]}
CELLS = {f"{lr} {decay}" for lr in GRID["lr"] for decay in GRID["decay"]}


def start(folder, me, stop="", pause=0.0):
    root = str(Path(__file__).resolve().parent.parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), me, stop, str(pause)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def lines(folder, me, what): return (folder / f"{me}.{what}").read_text().split("\n")[:-1] if (folder / f"{me}.{what}").exists() else []


def opened(folder): return grid_study(lambda cell: {"loss": cell["lr"] + cell["decay"]}, GRID, folder / "sweep.db", metrics=["loss"], maximise=False)


def kill(process):
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows ends a process at once with either
    process.wait(30)


def test_killed_in_the_middle_of_a_trial(tmp_path):
    "The cell whose process died is measured again, the finished ones are not, and the table has each cell once."
    first = start(tmp_path, "first", stop="2 0.5")
    try:
        assert first.stdout.readline() == "ready\n" and first.stdout.readline() == "here\n"
        time.sleep(0.5)  # so that it has given signs of life
    finally: kill(first)
    before = lines(tmp_path, "first", "done")
    assert lines(tmp_path, "first", "begun") == [*before, "2 0.5"]
    table = as_table(study := opened(tmp_path))
    assert len(table) == len(before) and "2 0.5" not in {f"{r.lr} {r.decay}" for r in table.itertuples()}
    assert [t.state.name for t in study.study.trials].count("RUNNING") == 1  # nobody has told the database
    measured = []
    study.objective = lambda cell: measured.append(f"{cell['lr']} {cell['decay']}") or {"loss": cell["lr"] + cell["decay"]}
    begun = time.monotonic()
    run(study, beat=0.2, grace=2.5, progress=False)
    assert 2.5 <= time.monotonic() - begun < 20
    assert sorted(measured) == sorted(CELLS - set(before)) and "2 0.5" in measured
    table = as_table(opened(tmp_path))
    assert [(r.lr, r.decay, r.loss) for r in table.itertuples()] == [(lr, d, lr + d) for lr in GRID["lr"] for d in GRID["decay"]]
    assert Counter(t.state.name for t in study.study.trials) == {"COMPLETE": 6, "FAIL": 1}
    run(study, progress=False)
    assert len(study.study.trials) == 7 and len(measured) == 6 - len(before)


def test_two_processes_at_once(tmp_path):
    "They begin together on a new file, share the cells, and measure each exactly once; both end when all are done."
    both = [start(tmp_path, me, "together", pause=0.4) for me in ("a", "b")]
    try:
        for p in both: assert p.stdout.readline() == "ready\n"
        for p in both: p.stdin.write("go\n"); p.stdin.flush()
        assert [p.communicate(timeout=60)[0] for p in both] == ["6\n", "6\n"]
    finally:
        for p in both: kill(p)
    done = [lines(tmp_path, me, "done") for me in ("a", "b")]
    assert sorted(done[0] + done[1]) == sorted(CELLS) and min(map(len, done)) >= 1
    assert sorted(lines(tmp_path, "a", "begun") + lines(tmp_path, "b", "begun")) == sorted(CELLS)
    table = as_table(study := opened(tmp_path))
    assert len(table) == 6 and table["seconds"].min() >= 0.4
    assert [t.state.name for t in study.study.trials].count("COMPLETE") == 6


def test_a_living_process_is_waited_for(tmp_path):
    "A slow trial that gives signs of life is not taken over, however short the grace."
    study = grid_study(lambda cell: time.sleep(4) or {"loss": 0.0}, {"lr": [1]}, tmp_path / "slow.db", metrics=["loss"], maximise=False)
    other = grid_study(lambda cell: pytest.fail("the cell was taken over"), {"lr": [1]}, tmp_path / "slow.db", metrics=["loss"], maximise=False)
    thread = threading.Thread(target=run, args=(study,), kwargs=dict(beat=0.6, grace=2.5, progress=False))
    thread.start()
    while not study.states()["RUNNING"]: time.sleep(0.05)
    run(other, beat=0.1, grace=2.5, progress=False)  # looks six times between two signs of life
    thread.join(30)
    assert [t.state.name for t in study.study.trials] == ["COMPLETE"]
