"""Studies: resumed after any stop, shared by processes, stale when the code changes."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest

from kpnb import evidence as ev
from kpnb.evidence import Study, check_study, evidence, run_study, sources, studies, study

SCRIPT = textwrap.dedent("""
    import sys, time
    from kpnb.evidence import run_study, study

    @study(grid={"a": [1, 2.5], "b": ["x", "y"]}, seeds=range(4), about="a toy")
    def slow(a, b, seed):
        print("begin", flush=True)
        time.sleep(float(sys.argv[2]))
        return {"v": a * 10 + seed + (b == "y") * 0.1}

    run_study("slow", sys.argv[1], report=None)
""")


@pytest.fixture(autouse=True)
def own_studies(monkeypatch):
    monkeypatch.setattr(ev, "STUDIES", {})
    monkeypatch.setitem(run_study.__globals__, "STUDIES", ev.STUDIES)


def toy(grid=None, seeds=(0, 1, 2), **kw):
    @study(grid=grid or {"n": [10, 20]}, seeds=seeds, about="a toy", name="toy", **kw)
    def function(n, seed, width=1):
        return {"v": n + seed / 10 * width}

    return ev.STUDIES["toy"]


def run_in_process(tmp_path, seconds):
    script = tmp_path / "study.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out"), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def test_all_rows_are_run_and_stored_with_where_they_come_from(tmp_path):
    toy()
    table = run_study("toy", tmp_path, report=None)
    assert table[["n", "seed"]].values.tolist() == [[10, 0], [20, 0], [10, 1], [20, 1], [10, 2], [20, 2]]
    assert table.v.tolist() == [10, 20, 10.1, 20.1, 10.2, 20.2]
    assert (
        set(ev.RECORD) <= set(table)
        and (table.fingerprint.str.len() == 12).all()
        and check_study("toy", tmp_path) == []
    )
    pd.testing.assert_frame_equal(evidence("toy", tmp_path), table)


def test_a_study_goes_on_where_it_was(tmp_path):
    toy()
    run_study("toy", tmp_path, most=4, report=None)
    before = (tmp_path / "toy.csv").read_text().splitlines()
    assert len(before) == 5 and "2 row(s) missing" in check_study("toy", tmp_path)[0]
    run_study("toy", tmp_path, report=None)
    assert (tmp_path / "toy.csv").read_text().splitlines()[:5] == before
    assert len(run_study("toy", tmp_path, max_seconds=-1.0, report=None)) == 6  # nothing is left to do


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is for Unix")
def test_killed_again_and_again_no_row_is_lost_or_run_twice(tmp_path):
    begun = 0
    for seconds in (0.02, 0.05, 0.03, 0.06):
        with run_in_process(tmp_path, 0.1) as process:
            for _ in range(3):
                begun += process.stdout.readline() == "begin\n"
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGKILL)
    stored = pd.read_csv(tmp_path / "out" / "slow.csv")
    assert len(stored) >= begun - 4 and not stored.duplicated(["a", "b", "seed"]).any()
    with run_in_process(tmp_path, 0.0) as process:
        again = process.stdout.read().count("begin")
    table = pd.read_csv(tmp_path / "out" / "slow.csv")
    assert len(table) == 16 and again == 16 - len(stored)
    assert ((table.a * 10 + table.seed + (table.b == "y") * 0.1 - table.v).abs() < 1e-9).all()


def test_two_processes_share_the_rows(tmp_path):
    first, second = run_in_process(tmp_path, 0.1), run_in_process(tmp_path, 0.1)
    counts = [p.communicate()[0].count("begin") for p in (first, second)]
    assert first.returncode == second.returncode == 0
    assert sum(counts) == 16 and min(counts) >= 1
    assert len(pd.read_csv(tmp_path / "out" / "slow.csv")) == 16


def test_changed_code_makes_rows_stale_and_changed_words_do_not(tmp_path):
    toy()
    run_study("toy", tmp_path, report=None)

    @study(grid={"n": [10, 20]}, seeds=(0, 1, 2), name="toy")
    def function(n, seed, width=1):
        "Other words."
        return {"v": n + seed / 10 * width}  # and a comment

    assert check_study("toy", tmp_path) == []

    @study(grid={"n": [10, 20]}, seeds=(0, 1, 2), name="toy")
    def function(n, seed, width=1):  # noqa: F811
        return {"v": n + seed / 11 * width}

    assert "6 row(s) stale: the code or a fixed setting has changed" in check_study("toy", tmp_path)[0]
    table = run_study("toy", tmp_path, report=None)
    assert len(table) == 6 and check_study("toy", tmp_path) == [] and len(evidence("toy", tmp_path)) == 6


def helper_one():
    return 1


def helper_two():
    return 2


@pytest.mark.parametrize("change", [{"fixed": {"width": 3}}, {"uses": [helper_two]}])
def test_fixed_settings_and_helpers_belong_to_the_fingerprint(tmp_path, change):
    toy(fixed={"width": 2}, uses=[helper_one])
    run_study("toy", tmp_path, report=None)
    toy(**({"fixed": {"width": 2}, "uses": [helper_one]} | change))
    assert "stale" in check_study("toy", tmp_path)[0]


def known(x: int, *more, y=2.5) -> dict:
    "Words."
    return {f"{x!r:>4}{y}": [x, *more, None, -1j, b"b", ...] for _ in range(3) if x} | {"s": 'quo"te'}


def test_every_python_gives_the_same_fingerprint():
    "Newer versions add fields to the syntax tree; stored rows must not grow stale with the interpreter."
    toy(uses=[known])
    assert ev.STUDIES["toy"].fingerprint({"n": 10, "seed": 0}) == "5d4e339e6a2c"


def test_a_grid_may_grow_and_old_rows_stay(tmp_path):
    toy()
    run_study("toy", tmp_path, report=None)
    toy({"n": [10, 15, 20]}, seeds=range(4))
    assert check_study("toy", tmp_path) == ["toy: 6 row(s) missing, such as 10, 3"]
    toy({"n": [20]})
    assert check_study("toy", tmp_path) == ["toy: 3 row(s) not in the grid, such as 10, 0"]


@pytest.mark.parametrize(
    "values",
    [[0.1, 1e-4], [True, False], ["a b", 'quote "x", comma'], [1, 2.5], [(1, 2), (3,)], [None, "no"]],
)
def test_any_setting_survives_the_file(tmp_path, values):
    @study(grid={"x": values}, seeds=[0], name="odd")
    def function(x, seed):
        return {"v": 1.0}

    assert len(run_study("odd", tmp_path, report=None)) == 2
    calls = []
    assert (
        len(run_study("odd", tmp_path, report=calls.append)) == 2
        and calls == []
        and check_study("odd", tmp_path) == []
    )


@pytest.mark.parametrize(
    "result, words",
    [
        (1.0, "expected a dictionary"),
        ({}, "expected a dictionary"),
        ({"v": "x"}, "v is 'x'"),
        ({"v": float("inf")}, "v is inf"),
        ({"v": True}, "v is True"),
        ({"seed": 1}, "has the name of a setting"),
        ({"date": 1}, "has the name of a setting or of a column"),
    ],
)
def test_results_that_are_no_numbers_are_refused_and_nothing_is_stored(tmp_path, result, words):
    @study(grid={"x": [1]}, seeds=[0], name="bad")
    def function(x, seed):
        return result

    with pytest.raises((TypeError, ValueError), match=words):
        run_study("bad", tmp_path)
    assert not (tmp_path / "bad.csv").exists()


@pytest.mark.parametrize(
    "kw, words",
    [
        ({"grid": {"y": [1]}}, "takes no 'y'"),
        ({"grid": {"x": [1, 1.0]}}, "look alike"),
        ({"grid": {"x": [1]}, "fixed": {"x": 2}}, "both in the grid and fixed"),
        ({"grid": {"x": [1]}, "name": "a/b"}, "names a file"),
        ({"grid": {"seed": [1]}}, "name of a column"),
    ],
)
def test_studies_that_cannot_work_are_refused_when_declared(kw, words):
    with pytest.raises((TypeError, ValueError), match=words):

        @study(**kw)
        def function(x, seed):
            return {"v": 1}


def test_not_a_number_is_stored_as_nothing(tmp_path):
    @study(grid={"x": [1]}, seeds=[0], name="gap")
    def function(x, seed):
        return {"v": float("nan"), "w": 2}

    table = run_study("gap", tmp_path, report=None)
    assert table.v.isna().all() and table.w.tolist() == [2] and check_study("gap", tmp_path) == []


def test_sources_say_how_to_make_each_file(tmp_path):
    toy()
    run_study("toy", tmp_path, most=2, report=None)
    row = sources(tmp_path).set_index("study").loc["toy"]
    assert row["command"] == "make evidence STUDY=toy" and row["rows"] == "2 of 6" and row["about"] == "a toy"
    with pytest.raises(FileNotFoundError, match="there is no stored study 'other'; there are toy"):
        evidence("other", tmp_path)


def test_a_row_at_a_time_is_shared_with_a_living_process_only(tmp_path):
    with run_in_process(tmp_path, 30) as process:
        assert process.stdout.readline() == "begin\n"
        process.kill()
    start = time.monotonic()
    with run_in_process(tmp_path, 0) as process:
        assert process.stdout.read().count("begin") == 16 and time.monotonic() - start < 20


# What is stored in the package itself.

KNOWN = studies()  # before any test puts its own in their place
STORED = sorted(p.stem for p in ev.evidence_folder().glob("*.csv"))


@pytest.mark.parametrize("name", STORED)
def test_stored_rows_are_those_that_the_code_of_today_would_make(name):
    "A study may be under way, seed after seed; what is stored must be its own, and whole for each seed."
    declared: Study = KNOWN[name]
    assert [p for p in check_study(declared) if "missing" not in p] == []
    rows = evidence(name)
    assert set(rows.groupby("seed").size()) == {len(declared.rows()) // len(declared.seeds)}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_tiny_row_of_every_study_runs(name, tmp_path):
    s = KNOWN[name]
    assert s.tiny, f"{name} declares no tiny settings"
    row = s.rows()[0]
    values = s.function(**(dict(s.fixed) | row | dict(s.tiny)))
    assert values and all(isinstance(v, int | float) for v in values.values())
