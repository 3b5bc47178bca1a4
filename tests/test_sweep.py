"""A grid survives what really happens.

A process is killed in the middle of a training, and two processes share one study.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("optuna")
from kpnb.sweep import as_table, grid_study, plot_grid, run  # noqa: E402

# Measures 2 × 3 cells and writes down what it begins and what it finishes.
# In the cell named by `stop` it says so, and waits there to be killed.
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

study = grid_study(objective, {"lr": [1, 2], "decay": [0.0, 0.5, 0.25]}, folder / "sweep.db", \
metrics=["loss"], maximise=False)
print("ready", flush=True)
if stop == "together": sys.stdin.readline()
run(study, beat=0.2, grace=2.5, progress=False)
print(len(study.states()["COMPLETE"]), flush=True)
"""
GRID = {"lr": [1, 2], "decay": [0.0, 0.5, 0.25]}
CELLS = {f"{lr} {decay}" for lr in GRID["lr"] for decay in GRID["decay"]}


def start(folder, me, stop="", pause=0.0):
    root = str(Path(__file__).resolve().parent.parent)
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), me, stop, str(pause)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def lines(folder, me, what):
    return (
        (folder / f"{me}.{what}").read_text().split("\n")[:-1] if (folder / f"{me}.{what}").exists() else []
    )


def opened(folder):
    return grid_study(
        lambda cell: {"loss": cell["lr"] + cell["decay"]},
        GRID,
        folder / "sweep.db",
        metrics=["loss"],
        maximise=False,
    )


def kill(process):
    process.send_signal(
        getattr(signal, "SIGKILL", signal.SIGTERM)
    )  # Windows ends a process at once with either
    process.wait(30)


def test_killed_in_the_middle_of_a_trial(tmp_path):
    """The cell whose process died is measured again, the finished ones are not.

    The table has each cell once."""
    first = start(tmp_path, "first", stop="2 0.5")
    try:
        assert first.stdout.readline() == "ready\n" and first.stdout.readline() == "here\n"
        time.sleep(0.5)  # so that it has given signs of life
    finally:
        kill(first)
    before = lines(tmp_path, "first", "done")
    assert lines(tmp_path, "first", "begun") == [*before, "2 0.5"]
    table = as_table(study := opened(tmp_path))
    assert len(table) == len(before) and "2 0.5" not in {f"{r.lr} {r.decay}" for r in table.itertuples()}
    assert [t.state.name for t in study.study.trials].count("RUNNING") == 1  # nobody has told the database
    measured = []
    study.objective = lambda cell: (
        measured.append(f"{cell['lr']} {cell['decay']}") or {"loss": cell["lr"] + cell["decay"]}
    )
    begun = time.monotonic()
    run(study, beat=0.2, grace=2.5, progress=False)
    assert 2.5 <= time.monotonic() - begun < 20
    assert sorted(measured) == sorted(CELLS - set(before)) and "2 0.5" in measured
    table = as_table(opened(tmp_path))
    assert [(r.lr, r.decay, r.loss) for r in table.itertuples()] == [
        (lr, d, lr + d) for lr in GRID["lr"] for d in GRID["decay"]
    ]
    assert Counter(t.state.name for t in study.study.trials) == {"COMPLETE": 6, "FAIL": 1}
    run(study, progress=False)
    assert len(study.study.trials) == 7 and len(measured) == 6 - len(before)


def test_two_processes_at_once(tmp_path):
    """They begin together on a new file, share the cells, and measure each exactly once.

    Both end when all are done."""
    both = [start(tmp_path, me, "together", pause=0.4) for me in ("a", "b")]
    try:
        for p in both:
            assert p.stdout.readline() == "ready\n"
        for p in both:
            p.stdin.write("go\n")
            p.stdin.flush()
        assert [p.communicate(timeout=60)[0] for p in both] == ["6\n", "6\n"]
    finally:
        for p in both:
            kill(p)
    done = [lines(tmp_path, me, "done") for me in ("a", "b")]
    assert sorted(done[0] + done[1]) == sorted(CELLS) and min(map(len, done)) >= 1
    assert sorted(lines(tmp_path, "a", "begun") + lines(tmp_path, "b", "begun")) == sorted(CELLS)
    table = as_table(study := opened(tmp_path))
    assert len(table) == 6 and table["seconds"].min() >= 0.4
    assert [t.state.name for t in study.study.trials].count("COMPLETE") == 6


def test_a_living_process_is_waited_for(tmp_path):
    "A slow trial that gives signs of life is not taken over, however short the grace."
    study = grid_study(
        lambda cell: time.sleep(4) or {"loss": 0.0},
        {"lr": [1]},
        tmp_path / "slow.db",
        metrics=["loss"],
        maximise=False,
    )
    other = grid_study(
        lambda cell: pytest.fail("the cell was taken over"),
        {"lr": [1]},
        tmp_path / "slow.db",
        metrics=["loss"],
        maximise=False,
    )
    thread = threading.Thread(target=run, args=(study,), kwargs=dict(beat=0.6, grace=2.5, progress=False))
    thread.start()
    while not study.states()["RUNNING"]:
        time.sleep(0.05)
    run(other, beat=0.1, grace=2.5, progress=False)  # looks six times between two signs of life
    thread.join(30)
    assert [t.state.name for t in study.study.trials] == ["COMPLETE"]


# --- storages: what a file is called, and what has become of it


def study(folder, name="sweep.db", value=1.0, **kw):
    usual = dict(grid={"lr": [1, 2]}, metrics=["loss"])
    return grid_study(lambda cell: {"loss": value * cell["lr"]}, storage=folder / name, **(usual | kw))


@pytest.mark.parametrize(
    "names", [("a?1.db", "a?2.db"), ("a#1.db", "a#2.db"), ("a%3F1.db", "a?1.db"), ("{a}.db", "a b.db")]
)
def test_each_file_name_is_a_database_of_its_own(tmp_path, names):
    for i, name in enumerate(names):
        run(study(tmp_path, name, value=10.0**i, grid={"lr": [1]}), progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    for i, name in enumerate(names):
        assert as_table(study(tmp_path, name, grid={"lr": [1]}))["loss"].tolist() == [10.0**i]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> bytes:
    "The bytes of a finished study's database."
    folder = tmp_path_factory.mktemp("finished")
    run(study(folder), progress=False)
    return (folder / "sweep.db").read_bytes()


@pytest.mark.parametrize(
    "change",
    {
        "cut in the middle": lambda b: b[: len(b) // 2],
        "cut in the first page": lambda b: b[:1000],
        "cut in the header": lambda b: b[:50],
        "a page of zeros": lambda b: b[:8192] + bytes(4096) + b[12288:],
        "the first page of zeros": lambda b: bytes(4096) + b[4096:],
        "zeros after the header": lambda b: b[:100] + bytes(3996) + b[4096:],
        "a header that counts no pages": lambda b: b[:28] + bytes(4) + b[32:4096],
        "all zeros": lambda b: bytes(len(b)),
        "text": lambda b: b"no database\n" * 99,
    }.items(),
    ids=lambda v: v[0],
)
def test_a_damaged_database_is_named(tmp_path, finished, change):
    broken = change[1](finished)
    (tmp_path / "sweep.db").write_bytes(broken)
    with pytest.raises(ValueError, match=r"sweep\.db"):
        as_table(study(tmp_path))
    assert (tmp_path / "sweep.db").read_bytes() == broken, "nothing was changed"


def test_a_study_whose_description_is_damaged_is_named(tmp_path, finished):
    (tmp_path / "sweep.db").write_bytes(finished)
    with sqlite3.connect(tmp_path / "sweep.db") as db:
        db.execute("UPDATE study_user_attributes SET value_json = '{\"grid\": 3'")
    db.close()
    with pytest.raises(ValueError, match=r"sweep\.db"):
        study(tmp_path)


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    (tmp_path / "sweep.db").mkdir()
    with pytest.raises(ValueError, match=r"sweep\.db is no file"):
        study(tmp_path)


def test_an_empty_file_is_a_new_study(tmp_path):
    (tmp_path / "sweep.db").write_bytes(b"")
    assert len(as_table(run(study(tmp_path), progress=False))) == 2


# --- what belongs to the experiment


@pytest.mark.parametrize(
    "value,other",
    [
        ((32, 32), (32, 33)),
        ({"a": (1, (2, 3))}, {"a": (1, (2, 4))}),
        (np.float64(0.5), 0.6),
        (np.int64(3), 4),
        (Path("x") / "y", "z"),
        (float("nan"), 1.0),
        ({1: 2}, {1: 3}),
        (None, 0),
        (True, False),
    ],
)
def test_settings_of_any_plain_kind_are_kept_and_compared(tmp_path, value, other):
    for _ in range(2):
        assert len(study(tmp_path, settings={"size": value})) == 2
    with pytest.raises(ValueError, match="settings: size was"):
        study(tmp_path, settings={"size": other})


def test_a_setting_that_cannot_be_kept_has_a_name(tmp_path):
    with pytest.raises(ValueError, match="settings: net is .*cannot be stored"):
        study(tmp_path, settings={"net": object()})


@pytest.mark.parametrize(
    "kw",
    [
        {"metrics": ["lr"]},
        {"metrics": ["seconds"]},
        {"metrics": ["loss", "loss"]},
        {"grid": {"seconds": [1]}},
    ],
)
def test_a_column_has_one_meaning(tmp_path, kw):
    with pytest.raises(ValueError, match="two columns '(lr|seconds|loss)'"):
        study(tmp_path, **kw)


@pytest.mark.parametrize(
    "name,large", {"loss": False, "valid_error_px": False, "valid_accuracy": True, "mean_iou": True}.items()
)
def test_a_study_knows_whether_its_target_shall_be_large(tmp_path, name, large):
    s = grid_study(lambda cell: {name: float(cell["x"])}, {"x": [1, 2, 3]}, tmp_path / "s.db", metrics=[name])
    assert run(s, progress=False).study.best_value == (3 if large else 1)


# --- drawings


@pytest.mark.parametrize(
    "name,best",
    {
        "valid_error_px": 3,
        "valid_nme": 3,
        "train_loss": 3,
        "valid_accuracy": 0,
        "valid_iou": 0,
        "pck@0.1": 0,
        "skill": 0,
    }.items(),
)
def test_the_frame_is_around_the_best_cell(name, best):
    table = pd.DataFrame(
        {"lr": [0.1, 0.1, 0.2, 0.2], "weight_decay": [0, 1, 0, 1], name: [0.9, 0.8, 0.7, 0.6]}
    )
    x, y = plot_grid(table, name).patches[-1].get_xy()
    plt.close("all")
    row, col = {0: (1, 0), 3: (0, 1)}[best]  # the larger learning rate stands on top
    assert (x, y) == pytest.approx((col - 0.48, row - 0.48))


def test_a_column_of_unknown_direction_asks():
    table = pd.DataFrame({"lr": [0.1, 0.2], "weight_decay": [0, 0], "score": [1.0, 2.0]})
    with pytest.raises(ValueError, match="'score'.*maximise"):
        plot_grid(table, "score")
    assert plot_grid(table, "score", maximise=False).patches[-1].get_y() == pytest.approx(0.52)
    plt.close("all")
