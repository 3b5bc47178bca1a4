"""A grid survives what really happens.

A process is killed in the middle of a training, and several processes share one study: in a file, or on a
PostgreSQL server that the test starts on loopback. Where its programs or the driver are missing, that test is
skipped; the environment variable KPNB_POSTGRES changes this: with `required` it fails instead, with `off` it
is always skipped.
"""

import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

optuna = pytest.importorskip("optuna")
from kpnb.grid import METRICS, grid_study  # noqa: E402
from kpnb.sweep import as_table, best_so_far, plot_grid, run, search  # noqa: E402

# Measures 2 × 3 cells and writes down what it begins and what it finishes.
# In the cell named by `stop` it says so, and waits there to be killed.
SCRIPT = """
import sys, time
from pathlib import Path
from kpnb.grid import grid_study
from kpnb.sweep import run

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


def start(folder, me, stop="", pause=0.0, script=SCRIPT):
    root = str(Path(__file__).resolve().parent.parent)
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), me, stop, str(pause)],
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


def small(tmp_path=None, objective=None, storage=None, **kw):
    "A study of three cells, in memory or in a file."
    storage = storage or (tmp_path / "small.db" if tmp_path else optuna.storages.InMemoryStorage())
    usual = dict(grid={"x": [1, 2, 3]}, metrics=["m"])
    return grid_study(objective or (lambda cell: {"m": cell["x"]}), storage=storage, **(usual | kw))


def count(study):
    return Counter(t.state.name for t in study.study.trials)


def test_a_process_that_died_before_its_first_sign_of_life(tmp_path):
    "Optuna has no clock for its trial; the cell is taken over after the grace all the same, once."
    s = small(tmp_path)
    s.study.enqueue_trial(s.cells[1])
    with pytest.warns(UserWarning, match="Heartbeat"):
        s.study.ask()
    assert s.states()["RUNNING"] == {1}
    begun = time.monotonic()
    run(s, beat=0.1, grace=0.4, progress=False)
    assert time.monotonic() - begun > 0.4
    assert as_table(s)["x"].tolist() == [1, 2, 3]
    assert count(s) == {"COMPLETE": 3, "FAIL": 1}


def test_a_trial_without_a_cell_holds_nothing(tmp_path):
    "Its process died before it was told what to measure."
    s = small(tmp_path)
    with pytest.warns(UserWarning, match="Heartbeat"):
        s.study.ask()
    run(s, progress=False)
    assert len(as_table(s)) == 3


def test_a_sign_of_life_that_the_database_refuses_is_not_the_last(tmp_path, monkeypatch):
    calls, right = [], optuna.storages.RDBStorage.record_heartbeat

    def moody(self, trial_id):
        calls.append(trial_id)
        if len(calls) == 2:
            raise optuna.exceptions.StorageInternalError("busy")
        right(self, trial_id)

    monkeypatch.setattr(optuna.storages.RDBStorage, "record_heartbeat", moody)
    run(small(tmp_path, lambda cell: time.sleep(1) or {"m": 0}, grid={"x": [1]}), beat=0.1, progress=False)
    assert len(calls) > 3


def test_threads_on_one_file_take_each_cell_once(tmp_path):
    "SQLite alone lets two of them read that a trial waits before either has written that it runs."
    measured, grid = [], {"x": [*range(4)], "y": [*range(4)]}
    workers = [small(tmp_path, lambda cell: measured.append(tuple(cell.values())) or {"m": 0}, grid=grid)]
    workers += [small(tmp_path, workers[0].objective, grid=grid) for _ in range(3)]
    threads = [threading.Thread(target=run, args=(s,), kwargs={"progress": False}) for s in workers]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
    assert sorted(measured) == [(x, y) for x in range(4) for y in range(4)]
    assert count(workers[0])["COMPLETE"] == 16


def test_an_error_ends_the_run_and_its_cell_comes_again():
    "Nothing is lost; NaN is a result, and the worst one."
    calls = []

    def moody(cell):
        calls.append((x := cell["x"], cell["y"]))
        if x == 2 and cell["y"] and len([c for c in calls if c == (2, True)]) < 3:
            raise KeyError("the disk is full")
        return {"m": math.nan if x == 3 else x + cell["y"], "other": 1}

    s = small(objective=moody, grid={"x": [1, 2, 3], "y": [False, True]}, metrics=["other", "m"])
    for _ in range(2):
        with pytest.raises(KeyError, match="the disk is full"):
            run(s, progress=False)
    run(s, progress=False)
    found = as_table(s)
    assert found["x"].tolist() == [1, 1, 2, 2, 3, 3]
    assert found["m"].tolist()[:4] == [1, 2, 2, 3]
    assert found["m"][4:].isna().all() and s.study.best_value == 3
    assert sorted(calls) == sorted([(x, y) for x in (1, 2, 3) for y in (False, True)] + 2 * [(2, True)])
    assert len(s.states()["FAIL"]) == 1


def test_a_result_that_comes_after_others_gave_the_trial_up_is_dropped():
    woken = []

    def sleeper(cell):
        if cell["x"] == 2 and not woken:
            woken.append(s.study.trials[-1].number)
            other = optuna.load_study(study_name="grid", storage=s.storage)
            other.tell(woken[0], state=optuna.trial.TrialState.FAIL)
        return {"m": float(len(woken))}

    s = small(objective=sleeper)
    run(s, progress=False)
    assert len(as_table(s)) == 3 and count(s) == {"COMPLETE": 3, "FAIL": 1}


def test_of_several_trials_of_one_cell_the_oldest_counts():
    had = []
    s = small(objective=lambda cell: had.append(cell["x"]) or {"m": cell["x"]})
    s.study.enqueue_trial({"x": 2})
    held = s.study.ask()  # another process has it
    s.study.enqueue_trial({"x": 2})  # and somebody queued it again
    run(s, cells=1, progress=False)
    assert len(had) == 1 and had != [2]
    assert s.states()["RUNNING"] == {1} and s.states()["FAIL"] == {1}
    s.study.enqueue_trial({"x": had[0]})  # a cell that is done
    run(s, cells=1, progress=False)
    assert sorted(had) == [1, 3]
    s.study.tell(held.number, state=optuna.trial.TrialState.FAIL)
    run(s, progress=False)
    assert sorted(had) == [1, 2, 3] and len(as_table(s)) == 3


def test_a_second_finished_trial_of_a_cell_changes_nothing():
    s = run(small(), progress=False)
    s.study.add_trial(
        optuna.create_trial(
            params={"x": 1},
            distributions={"x": optuna.distributions.CategoricalDistribution([1, 2, 3])},
            value=9.0,
            user_attrs={"metrics": {"m": 9.0}, "seconds": 1.0},
        )
    )
    assert as_table(s)["m"].tolist() == [1, 2, 3]


def test_a_study_of_somebody_else_is_refused():
    other = optuna.create_study(study_name="mine", storage=(store := optuna.storages.InMemoryStorage()))
    other.add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(ValueError, match="not made by grid_study"):
        small(storage=store, name="mine", maximise=False)


def test_a_finished_study_is_opened_again_as_it_was(tmp_path):
    "The first call stops after some cells, the second goes on, the third does nothing."
    grid, measured = {"lr": [0.1, 0.01], "weight_decay": [0.0, 0.5, 0.25]}, []
    objective = lambda cell: (
        measured.append(cell) or dict.fromkeys(METRICS, cell["lr"] + cell["weight_decay"])
    )
    how = dict(objective=objective, grid=grid, metrics=METRICS, settings={"epochs": 8})
    s = run(small(tmp_path, **how), cells=2, progress=False)
    assert repr(s) == "GridStudy 'grid': 2 of 6 cells done, in small.db" and len(s) == 6
    s = run(small(tmp_path, **how), progress=False)
    table = as_table(s)
    assert table[[*grid]].to_numpy().tolist() == [[a, b] for a in (0.1, 0.01) for b in (0.0, 0.5, 0.25)]
    assert count(s) == {"COMPLETE": 6} and len(measured) == 6
    assert s.study.best_value == table["valid_accuracy"].max() == 0.6
    again = run(small(tmp_path, **how), progress=False)
    pd.testing.assert_frame_equal(as_table(again), table)
    assert len(again.study.trials) == 6 and len(measured) == 6


@pytest.mark.parametrize(
    "other,text",
    [
        (dict(grid={"lr": [0.1]}), "grid: lr was [0.1, 0.01], and is [0.1] now"),
        (dict(grid={"lr": [0.1, 0.01], "momentum": [0.9]}), "grid: momentum was not there"),
        (dict(metrics=["iou"]), "metrics was ['loss', 'accuracy'], and is ['iou'] now"),
        (dict(seed=1), "seed was 0, and is 1 now"),
        (dict(settings={"epochs": 99}), "settings: epochs was 8"),
        (dict(target="loss"), "target was accuracy, and is loss now"),
        (dict(maximise=False), "maximise was True, and is False now"),
        (dict(settings={}), "Nothing was changed"),
    ],
)
def test_another_experiment_under_the_same_name_is_refused(tmp_path, other, text):
    usual = dict(grid={"lr": [0.1, 0.01]}, metrics=["loss", "accuracy"], settings={"epochs": 8})
    s = run(small(tmp_path, lambda cell: {"loss": 1, "accuracy": 2}, **usual), progress=False)
    with pytest.raises(ValueError, match=re.escape(text)):
        small(tmp_path, **(usual | other))
    assert len(as_table(s)) == 2


@pytest.mark.parametrize(
    "other,text",
    [
        (dict(grid={"lr": [1, 1]}), "each once"),
        (dict(grid={}), "grid: found {}"),
        (dict(grid={"lr": [np.ones(1)]}), "a ndarray"),
        (dict(grid={"lr": []}), "at least one"),
        (dict(grid={"lr": [math.nan]}), "holds nan"),
        (dict(target="iou"), "target is 'iou'"),
    ],
)
def test_what_is_no_grid_is_named(other, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        small(**other)


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        small(storage=tmp_path / "no" / "sweep.db")


@pytest.mark.parametrize(
    "answer,text",
    [({"a": 1}, "returned ['a']"), (3.0, "returned float"), ({"m": "x"}, "a number for each metric")],
)
def test_an_objective_that_returns_something_else_is_named(answer, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        run(small(objective=lambda cell: answer), progress=False)


def test_an_objective_that_prunes_itself_ends_the_run():
    def prune(cell):
        raise optuna.TrialPruned

    with pytest.raises(ValueError, match="a grid wants a number from each cell"):
        run(small(objective=prune), progress=False)


def test_a_grace_of_less_than_three_beats_is_refused():
    with pytest.raises(ValueError, match="at least 3 beats"):
        run(small(), grace=3)


def test_a_storage_may_be_a_url(tmp_path):
    url = f"sqlite:///{(tmp_path / 'sweep.db').as_posix()}"
    assert run(small(storage=url), progress=False).where == url
    assert len(as_table(small(storage=tmp_path / "sweep.db"))) == 3


# --- a server

SERVER = """
import sys, threading, time
from pathlib import Path
from kpnb.grid import grid_study
from kpnb.sweep import run

folder, me, stop, pause = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
grid = {"lr": [1, 2, 3, 4, 5, 6], "decay": [0.0, 0.25, 0.5, 0.75]}
lock = threading.Lock()
done = []

def note(what, cell):
    with lock, open(folder / f"{me}.{what}", "a") as f: f.write(f"{cell['lr']} {cell['decay']}\\n")

def objective(cell):
    note("begun", cell)
    if stop and len(done) >= 2:
        print("here", flush=True)
        time.sleep(300)
    time.sleep(pause)
    done.append(cell)
    note("done", cell)
    return {"loss": cell["lr"] + cell["decay"]}

url = (folder / "url").read_text()
workers = [grid_study(objective, grid, url, metrics=["loss"]) for _ in range(2)]
print("ready", flush=True)
sys.stdin.readline()
how = dict(beat=0.5, grace=5, progress=False)
threads = [threading.Thread(target=run, args=(s,), kwargs=how) for s in workers]
for t in threads: t.start()
for t in threads: t.join()
print(len(workers[0].states()["COMPLETE"]), flush=True)
"""


def program(name):
    "Debian keeps the server's programs beside the path."
    found = shutil.which(name)
    return found or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None)


def need_postgres():
    "Skip where something is not installed, or fail where it is required."
    wish = os.environ.get("KPNB_POSTGRES", "")
    if wish not in ("", "off", "required"):
        pytest.fail(f"the environment variable KPNB_POSTGRES is {wish!r}; expected off, required, or nothing")
    if wish == "off":
        pytest.skip("KPNB_POSTGRES is off")
    gone = [] if find_spec("pg8000") else ["pg8000 (pip install pg8000)"]
    if not (program("initdb") and program("pg_ctl")):
        gone.append("PostgreSQL's server (apt-get install postgresql)")
    if gone:
        (pytest.fail if wish == "required" else pytest.skip)("not installed: " + ", ".join(gone))


@pytest.fixture
def postgres():
    "The URL of a server on loopback, in a folder of its own, with a password; it refuses to run as root."
    need_postgres()
    who = {}
    folder = Path(tempfile.mkdtemp())
    if hasattr(os, "getuid") and os.getuid() == 0:
        who = dict(user="postgres", group="postgres", extra_groups=[], cwd=folder)
        shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text("secret")
    (folder / "password").chmod(0o644)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    data, log = ["-D", str(folder / "data")], ["-l", str(folder / "log")]

    def call(*command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120, **who)

    try:
        first = ["-U", "kpnb", "-A", "scram-sha-256", "--pwfile", str(folder / "password"), "--no-sync"]
        call(program("initdb"), *data, *first, "-E", "UTF8", "--locale=C")
        call(program("pg_ctl"), *data, *log, "-o", options, "-w", "start")
        try:
            yield f"postgresql+pg8000://kpnb:secret@127.0.0.1:{port}/postgres"
        finally:
            call(program("pg_ctl"), *data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_eight_workers_on_a_server_of_which_two_are_killed(tmp_path, postgres):
    """Four processes of two workers each begin together on an empty server; one process is killed.

    No cell is lost, and only those in the hands of the dead are begun twice."""
    (tmp_path / "url").write_text(postgres)
    names = ["a", "b", "c", "killed"]
    all_four = [start(tmp_path, me, "stop" * (me == "killed"), 0.2, SERVER) for me in names]
    try:
        for p in all_four:
            assert p.stdout.readline() == "ready\n"
        for p in all_four:
            p.stdin.write("go\n")
            p.stdin.flush()
        assert all_four[3].stdout.readline() == "here\n"
        kill(all_four[3])
        assert [p.communicate(timeout=400)[0] for p in all_four[:3]] == ["24\n"] * 3
    finally:
        for p in all_four:
            kill(p)
    cells = [f"{lr} {d}" for lr in range(1, 7) for d in (0.0, 0.25, 0.5, 0.75)]
    done = sum((lines(tmp_path, me, "done") for me in names), [])
    begun = sum((lines(tmp_path, me, "begun") for me in names), [])
    held = set(lines(tmp_path, "killed", "begun")) - set(lines(tmp_path, "killed", "done"))
    assert 1 <= len(held) <= 2 and all(lines(tmp_path, me, "done") for me in names)
    table = as_table(
        grid_study(None, {"lr": [*range(1, 7)], "decay": [0.0, 0.25, 0.5, 0.75]}, postgres, metrics=["loss"])
    )
    assert [f"{r.lr} {r.decay}" for r in table.itertuples()] == cells
    assert (table["loss"] == table["lr"] + table["decay"]).all()
    # the killed process may have finished a cell and died before it could tell the server
    untold = [cell for cell, n in Counter(done).items() if n > 1]
    assert len(untold) <= 1 and set(untold) <= set(lines(tmp_path, "killed", "done"))
    assert sorted(done) == sorted(cells + untold)
    assert Counter(begun) == Counter(cells) + Counter(held) + Counter(untold)


def test_a_password_is_not_shown(postgres):
    s = small(storage=postgres)
    assert "secret" not in repr(s) and ":***@127.0.0.1" in repr(s)
    with pytest.raises(ValueError, match=r":\*\*\*@") as e:
        small(storage=postgres, seed=1)
    assert "secret" not in str(e.value)


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


@pytest.fixture
def table():
    cells = [dict(lr=a, weight_decay=b) for a in (0.05, 0.01, 0.001) for b in (0.0, 0.001, 0.01)]
    loss = [0.5, 0.4, 0.9, 0.6, 0.3, 0.7, 1.5, 1.2, 1.9]
    return pd.DataFrame(cells).assign(valid_loss=loss, valid_accuracy=[1 - v / 2 for v in loss])


def test_a_missing_cell_a_cell_at_the_baseline_and_the_frame(table):
    ax = plot_grid(table.drop(index=[5]), "valid_loss", baseline=float(table["valid_loss"][2]))
    texts = [t.get_text() for t in ax.texts]
    assert texts.count("–") == 1 and len(texts) == 9
    # the row of the largest learning rate stands on top
    assert texts[2] == "(0.900)" and texts[5] == "–"
    assert ax.patches[-1].get_xy() == pytest.approx((1 - 0.48, 1 - 0.48))
    assert plot_grid(table, "valid_accuracy").patches[-1].get_xy() == pytest.approx((1 - 0.48, 1 - 0.48))
    assert len(plot_grid(table.assign(valid_loss=np.nan), "valid_loss").texts) == 9
    plt.close("all")


def test_a_table_that_is_no_grid_is_named(table):
    with pytest.raises(ValueError, match="no column 'iou'"):
        plot_grid(table, "iou")
    with pytest.raises(ValueError, match="more than one row"):
        plot_grid(pd.concat([table, table]), "valid_loss")


# --- searches


def slope(cell):
    return cell["x"] - 1e3 * cell["y"]


SPACE = {"x": (1e-3, 10.0), "y": (1e-6, 1e-2)}


def test_the_best_so_far():
    assert best_so_far([[1, 3, 2], [math.nan, 1, 0]])[0].tolist() == [1, 3, 3]
    assert best_so_far([math.nan, 1, 0])[1:].tolist() == [1, 1]
    assert best_so_far([3, 1, 2], maximise=False).tolist() == [3, 1, 1]


def test_a_search_notes_what_it_tried_and_repeats_itself():
    a = search(slope, SPACE, "random", 40, seed=1)
    assert len(a) == 40 and [*a] == ["x", "y", "value"]
    assert a["value"].to_numpy() == pytest.approx(slope(a).to_numpy(), abs=1e-9)
    pd.testing.assert_frame_equal(a, search(slope, SPACE, "random", 40, seed=1))


def test_tpe_aims_after_its_random_trials():
    a, b = (search(slope, SPACE, how, 40, seed=1) for how in ("random", "tpe"))
    pd.testing.assert_frame_equal(a[:10], b[:10])
    assert not a[10:].equals(b[10:])
    assert b["value"][20:].mean() > a["value"][20:].mean() + 0.5
    c = search(lambda cell: cell["x"], {"x": (1e-3, 10.0)}, "tpe", 40, maximise=False)
    assert c["x"][20:].median() < 0.05
    late, early = (search(lambda cell: cell["x"], {"x": (1e-3, 10.0)}, "tpe", 30, startup=n) for n in (30, 2))
    assert not late.equals(early)


def test_a_search_draws_on_a_logarithmic_scale():
    many = search(lambda cell: 0.0, {"x": (1e-4, 1.0)}, trials=400)["x"]
    assert (many < 1e-2).mean() == pytest.approx(0.5, abs=0.08)


def test_what_is_no_search_is_named():
    with pytest.raises(ValueError, match="'bayes'"):
        search(slope, SPACE, "bayes")
    with pytest.raises(ValueError, match=re.escape("the range of lr is (0.0, 1.0)")):
        search(slope, {"lr": (0.0, 1.0)})
