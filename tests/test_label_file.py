"""Labels are never lost: a label file under SIGKILL, failing writes, a second writer and other programs.

SIGKILL comes at every step of saving; the second writer is beside the first. What other programs do to the
files is here, too.
"""

import contextlib
import copy
import json
import os
import random
import subprocess
import sys

import pandas as pd
import pytest
from label_folders import (
    BROKEN,
    BROKEN_TABLES,
    NAMES,
    THREE,
    broken_coco,
    coco,
    label,
    needs_fork,
    no_file_longer_than,
    picture,
    whole,
    write,
)

from kpnb.coco import read_coco, to_coco
from kpnb.core import DataError
from kpnb.datasets import load
from kpnb.label_file import LabelFile
from kpnb.labels import HIDDEN, SEEN, Label, picture_name, read_csv, to_csv
from kpnb.own_data import register

# Processes that label. In the first script each is killed at its k-th step (a file is opened to be written,
# renamed, removed or cut), in the middle of a write (a file may not become longer than so many bytes), until
# one comes to its end. In the second script two label at once.
LABELS = """
import json, math, os, random, resource, signal, sys
from pathlib import Path
from kpnb.label_file import LabelFile
from kpnb.labels import HIDDEN, SEEN, Label

def label(i): return Label((120, 160), {"nose": (i + 0.5, 2 * i, SEEN), \
"left_eye": (math.nan, math.nan, HIDDEN) if i % 3 else (i, i + 0.25, SEEN)})

def work(folder, n=2):
    file = LabelFile(folder, ["nose", "left_eye"])
    with open(folder / "told", "ab", buffering=0) as told:
        for i in range(n):
            file.put(f"{i}.jpg", label(i))
            told.write(f"{i}\\n".encode())
        file.put("0.jpg", label(50)) # a correction
        told.write(b"50\\n")
"""

KILLED = (
    LABELS
    + """
def is_step(event, args): return event in ("os.rename", "os.remove", "os.truncate", "os.mkdir") \
or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))

def at_step(k):
    made = [0]
    def hook(event, args):
        if is_step(event, args):
            made[0] += 1
            if made[0] == k: os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def at_byte(k):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80 * k, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

root, kills = Path(sys.argv[1]), 0
for prepare in (at_step, at_byte):
    k = 0
    while True:
        k += 1
        folder = root / f"{prepare.__name__}-{k}"
        folder.mkdir()
        if (child := os.fork()) == 0:
            prepare(k)
            work(folder)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status): break
        kills += 1
    if os.WEXITSTATUS(status): os._exit(3)
print(kills, flush=True)
os._exit(0)
"""
)

TOGETHER = (
    LABELS
    + """
root, n, start = Path(sys.argv[1]), int(sys.argv[2]), os.pipe()

def write(who):
    os.read(start[0], 1)
    file, g = LabelFile(root, ["nose", "left_eye"]), random.Random(who)
    for i in range(n):
        file.put(f"own-{who}-{i}.jpg", Label((120, 160), {"nose": (who, i, SEEN)}))
        name = ["nose", "left_eye"][who]
        old = file.rows.get(f"both-{i}.jpg", Label((120, 160)))
        file.put(f"both-{i}.jpg", Label((120, 160), old.points | {name: (who + 1, i, SEEN)}))
    os._exit(0 if file.notes == [] else 4)

children = []
for who in range(2):
    if (child := os.fork()) == 0: write(who)
    children.append(child)
os.write(start[1], b"go")
os._exit(max(os.WEXITSTATUS(os.waitpid(c, 0)[1]) for c in children))
"""
)


def run(script, *args):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_fork
def test_a_kill_at_any_step_or_byte_of_saving_loses_nothing_that_was_saved(tmp_path):
    "At most the label in the making is missing, nothing is put aside or said, and a new process goes on."
    assert int(run(KILLED, tmp_path)) > 30
    for folder in tmp_path.iterdir():
        taken = (folder / "told").read_text().split() if (folder / "told").exists() else []
        whole(folder)
        file = LabelFile(folder, NAMES)
        assert {f"{i}.jpg" for i in taken} - {"50.jpg"} <= set(file.rows) and len(file.rows) <= len(
            taken
        ) + 1, (folder.name, taken, file.rows)
        assert file.rows.get("1.jpg", label(1)).same(label(1)), folder.name
        corrected = "0.jpg" in file.rows and file.rows["0.jpg"].same(label(50))
        assert corrected or ("50" not in taken and file.rows.get("0.jpg", label(0)).same(label(0))), (
            folder.name
        )
        assert file.notes == [], (
            folder.name,
            file.notes,
        )  # an interrupted save is nothing that a reader must know of
        file.put("2.jpg", label(2))
        assert [set(rows) for rows in whole(folder)] == [set(file.rows) | {"2.jpg"}] * 2
        assert not list(folder.glob("*kept*"))


@needs_fork
def test_two_annotators_at_once_lose_nothing(tmp_path):
    "Two processes label pictures of their own, and one point each of the same pictures."
    run(TOGETHER, tmp_path, 12)
    for rows in whole(tmp_path):
        assert len(rows) == 36
        assert all(
            rows[f"own-{who}-{i}.jpg"].points == {"nose": (who, i, SEEN)}
            for who in range(2)
            for i in range(12)
        )
        assert all(
            rows[f"both-{i}.jpg"].points == {"nose": (1, i, SEEN), "left_eye": (2, i, SEEN)}
            for i in range(12)
        )
    assert not list(tmp_path.glob("*kept*")) and not list(tmp_path.glob(".*.part"))


def test_annotators_that_take_turns_keep_what_the_other_did(tmp_path):
    "The points of one picture, a removal, and a failed save between them."
    one, two = LabelFile(tmp_path, NAMES), LabelFile(tmp_path, NAMES)
    one.put("a.jpg", Label((9, 9), {"nose": (1, 2, SEEN)}))
    two.put("a.jpg", Label((9, 9), {"left_eye": (3, 4, SEEN)}))
    assert two.rows["a.jpg"].points == {"nose": (1, 2, SEEN), "left_eye": (3, 4, SEEN)}
    one.put("a.jpg", Label((9, 9)))  # takes the nose away, and has not seen the eye
    assert one.rows["a.jpg"].points == {"left_eye": (3, 4, SEEN)}
    two.put("b.jpg", Label((9, 9), {"nose": (5, 6, SEEN)}, True))
    one.save()
    assert one.rows["b.jpg"].skipped and (one.notes, two.notes) == ([], [])


@needs_fork
def test_any_order_of_clicks_saves_failures_and_openings_keeps_the_last_change_of_each_point(tmp_path):
    """Three annotators on one folder, some of whose writes fail half-way.

    At the end all files say what was clicked last."""
    g, names, files = random.Random(7), [f"p{i}" for i in range(40)], [f"{i}.jpg" for i in range(30)]
    last = {(f, n): (1, 1, SEEN) for f in files for n in names}
    write(
        tmp_path / "keypoints.csv",
        to_csv(names, {f: Label((99, 99), {n: last[f, n] for n in names}) for f in files}),
    )
    open_ = [LabelFile(tmp_path, names) for _ in range(3)]
    for k in range(50):
        i, f, n = g.randrange(3), g.choice(files), g.choice(names)
        what = g.choice(["click", "click", "click", "take away", "save", "open", "fail"])
        if what == "save":
            open_[i].save()
        elif what == "open":
            open_[i] = LabelFile(tmp_path, names)
        elif what != "take away" or n in open_[i].rows[f].points:  # what it has not seen it cannot take away
            last[f, n] = (k, 1, SEEN) if what != "take away" else None
            points = {m: at for m, at in open_[i].rows[f].points.items() if m != n} | (
                {n: last[f, n]} if last[f, n] else {}
            )
            with no_file_longer_than(g.randrange(20_000)) if what == "fail" else contextlib.nullcontext():
                with contextlib.suppress(OSError):
                    open_[i].put(f, Label((99, 99), points))
            if not open_[i].saved:
                open_[i].save()
    for labels in open_:
        labels.save()
    for rows in [LabelFile(tmp_path, names).rows, *whole(tmp_path)]:
        assert {(f, n): rows[f].points.get(n) for f in files for n in names} == last
    assert not list(tmp_path.glob("*kept*")) and not any(labels.notes for labels in open_)


@needs_fork
def test_every_write_may_fail(tmp_path):
    """A write that fails after any number of bytes is an error for the caller.

    The files stay whole, and the next save brings everything."""
    outcomes = set()
    for n in range(0, 1600, 160):
        folder = tmp_path / str(n)
        file = LabelFile(folder, NAMES)
        file.put("0.jpg", label(0))
        with no_file_longer_than(n):
            for i in range(1, 3):
                try:
                    file.put(f"{i}.jpg", label(i))
                    assert file.saved
                    outcomes.add("saved")
                except OSError:
                    outcomes.add("failed")
                    assert not file.saved
        assert all("0.jpg" in rows for rows in whole(folder))
        assert sorted(file.rows) == ["0.jpg", "1.jpg", "2.jpg"]
        file.save()
        assert [sorted(rows) for rows in whole(folder)] == [["0.jpg", "1.jpg", "2.jpg"]] * 2
        assert LabelFile(folder, NAMES).notes == []
    assert outcomes == {"saved", "failed"}


@pytest.mark.parametrize("table", [False, True])
def test_what_another_program_wrote_survives_a_moved_point_and_is_copied_first(tmp_path, table):
    """Outlines, boxes, skeleton, ids, licences and the places of points with v = 0 stay.

    The file as it was lies beside, under a name that is said."""
    data = coco({"a.jpg": [1, 2, 0, 10.25, 20, 2, 30, 40, 1], "b.jpg": [5, 6, 0, 7, 8, 2, 9, 9, 2]})
    raw = write(tmp_path / "keypoints.json", data).read_bytes()
    if table:
        write(tmp_path / "keypoints.csv", to_csv(THREE, read_coco(tmp_path / "keypoints.json")[1]))
    labels = LabelFile(tmp_path, THREE)
    kept = tmp_path / "keypoints.kept-1.json"
    assert kept.read_bytes() == raw and any(kept.name in note for note in labels.notes)
    assert (tmp_path / "keypoints.json").read_bytes() == raw, "opening alone writes nothing"
    labels.put("b.jpg", Label((80, 100), labels.rows["b.jpg"].points | {"b": (1, 2, SEEN)}))
    expected = copy.deepcopy(data)
    expected["annotations"][1] |= {"keypoints": [5, 6, 0, 0.5, 1.5, 2, 9, 9, 2], "num_keypoints": 2}
    assert json.loads((tmp_path / "keypoints.json").read_bytes()) == expected
    assert len(list(tmp_path.glob("*kept*"))) == 1


def test_a_correction_in_the_coco_file_counts_and_the_table_is_put_aside(tmp_path):
    labels = LabelFile(tmp_path, THREE)
    for i in range(3):
        labels.put(f"{i}.jpg", Label((80, 100), {n: (i, j, SEEN) for j, n in enumerate(THREE)}))
    data = json.loads(labels.json.read_bytes())
    data["annotations"][1]["keypoints"][0], data["annotations"][1]["segmentation"] = 50.5, [[1, 2, 3]]
    write(labels.json, data)
    table = labels.path.read_bytes()
    again = LabelFile(tmp_path, THREE)
    assert again.rows["1.jpg"].points["a"] == (51, 0, SEEN) and again.rows["2.jpg"].same(labels.rows["2.jpg"])
    assert (tmp_path / "keypoints.kept-1.csv").read_bytes() == table and any(
        "keypoints.kept-1.csv" in n and "1.jpg" in n for n in again.notes
    )
    assert json.loads(labels.json.read_bytes())["annotations"][1]["segmentation"] == [[1, 2, 3]]
    assert read_csv(labels.path)[1]["1.jpg"].points["a"] == (51, 0, SEEN)


def test_a_correction_in_the_table_counts_also_while_an_annotator_is_open(tmp_path):
    labels = LabelFile(tmp_path, ["a"])
    for i in range(3):
        labels.put(f"{i}.jpg", Label((80, 100), {"a": (i, 7, SEEN)}))
    write(labels.path, labels.path.read_bytes().replace(b"1,7,2", b"33,7,2"))
    labels.put("3.jpg", Label((80, 100), {"a": (1, 1, SEEN)}))
    assert labels.rows["1.jpg"].points["a"] == (33, 7, SEEN) and len(labels.rows) == 4
    assert any("keypoints.kept-1.json" in n and "differs" in n for n in labels.notes)
    assert all(rows["1.jpg"].points["a"] == (33, 7, SEEN) for rows in whole(tmp_path))


def test_an_older_file_without_a_journal_does_not_win_in_silence(tmp_path):
    for newer in ("csv", "json"):
        folder = tmp_path / newer
        folder.mkdir()
        for kind, x, make in (("csv", 1, to_csv), ("json", 2, to_coco)):
            path = write(
                folder / f"keypoints.{kind}", make(["a"], {"a.jpg": Label((9, 9), {"a": (x, 1, SEEN)})})
            )
            os.utime(path, (1e9 + (kind == newer), 1e9 + (kind == newer)))
        labels = LabelFile(folder, ["a"])
        assert labels.rows["a.jpg"].points["a"][0] == {"csv": 1, "json": 2}[newer]
        loser = {"csv": "keypoints.kept-1.json", "json": "keypoints.kept-1.csv"}[newer]
        assert (folder / loser).exists() and any(loser in n for n in labels.notes)


def test_random_coco_files_of_other_programs_come_back_unchanged(tmp_path):
    """Whatever is labelled, only a few numbers in the file are new.

    They are the triples of the points that changed, `num_keypoints` and sizes that were missing."""
    g = random.Random(5)
    for k in range(12):
        names = [f"p{i}" for i in range(g.randint(1, 4))]
        flat = lambda names=names: [
            c for _ in names for c in (g.choice([0, g.uniform(0, 99)]), g.uniform(0, 79), g.choice([0, 1, 2]))
        ]
        data = coco(
            {f"{g.choice(['', './', 'sub/'])}{i}.jpg": flat() for i in range(g.randint(1, 5))},
            names,
            more={"x": [1, {"y": None}], "ü": "\u00fc"},
        )
        g.shuffle(data["annotations"])
        data["images"].append(
            {"id": "text", "file_name": "unlabelled.png", "width": 100, "height": 80, "coco_url": "http://x"}
        )
        folder = tmp_path / str(k)
        folder.mkdir()
        write(folder / "keypoints.json", data)
        labels, expected = LabelFile(folder, names), copy.deepcopy(data)
        by_id = {im["id"]: picture_name(im["file_name"]) for im in data["images"]}
        for a in g.sample(expected["annotations"], g.randint(1, len(expected["annotations"]))):
            file, i = by_id[a["image_id"]], g.randrange(len(names))
            v, x = g.choice([0, 1, 2]), g.randint(0, 80)
            points = {n: at for n, at in labels.rows[file].points.items() if n != names[i]} | (
                {names[i]: (x + 0.5, 3.5, v)} if v else {}
            )
            a["keypoints"][3 * i : 3 * i + 3] = (
                [x, 3, v]
                if v
                else [0, 0, 0]
                if a["keypoints"][3 * i + 2]
                else a["keypoints"][3 * i : 3 * i + 3]
            )
            a["num_keypoints"] = sum(v > 0 for v in a["keypoints"][2::3])
            labels.put(file, Label((80, 100), points))
        found = json.loads((folder / "keypoints.json").read_bytes())
        for one, other in zip(found["annotations"], expected["annotations"]):
            if one["keypoints"] == other["keypoints"]:
                other["num_keypoints"] = one["num_keypoints"]  # a label that was set to what it was
        assert found == expected, k
        assert all(r.same(LabelFile(folder, names).rows[f]) for f, r in labels.rows.items())


@pytest.mark.parametrize("bad", BROKEN)
def test_one_broken_file_does_not_lock_out_the_other(tmp_path, bad):
    "Alone it is an error, and beside a good table it is put aside, which is said."
    says = broken_coco(tmp_path / "keypoints.json", bad)
    if bad != "folder":
        with pytest.raises(DataError, match="keypoints.json"):
            LabelFile(tmp_path, THREE)
    good = {"a.jpg": Label((80, 100), {"a": (1, 2, SEEN)})}
    write(tmp_path / "keypoints.csv", to_csv(THREE, good))
    labels = LabelFile(tmp_path, THREE)
    assert labels.rows["a.jpg"].same(good["a.jpg"]) and any(
        "keypoints.kept-1.json" in n and says in n for n in labels.notes
    )
    assert (tmp_path / "keypoints.kept-1.json").exists()
    labels.put("b.jpg", Label((9, 9), {"a": (1, 2, SEEN)}))
    assert [set(rows) for rows in whole(tmp_path)] == [{"a.jpg", "b.jpg"}] * 2


@pytest.mark.parametrize("bad, says", BROKEN_TABLES)
def test_a_broken_table_is_an_error_with_its_line_and_the_coco_file_counts(tmp_path, bad, says):
    table = write(tmp_path / "keypoints.csv", bad)
    with pytest.raises(DataError, match=f"(?s)keypoints.csv.*{says}"):
        read_csv(table)
    with pytest.raises(DataError, match="keypoints.csv"):
        LabelFile(tmp_path, ["a"])
    write(tmp_path / "keypoints.json", to_coco(["a"], {"b.jpg": Label((9, 9), {"a": (1, 2, SEEN)})}))
    labels = LabelFile(tmp_path, ["a"])
    assert list(labels.rows) == ["b.jpg"] and (tmp_path / "keypoints.kept-1.csv").read_bytes() == bad
    assert any("keypoints.kept-1.csv" in n for n in labels.notes)


def test_what_only_looks_different_is_read_and_written_in_one_form(tmp_path):
    "v as 2.0 in COCO, a half-labelled table through pandas, and states as a spreadsheet spells them."
    data = coco({"a.jpg": [10, 20, 2.0, 0, 0, 0.0, 2, 2, 1.0]})
    write(tmp_path / "keypoints.json", data)
    labels = LabelFile(tmp_path, THREE)
    labels.put("b.jpg", Label((80, 100), {"a": (1, 2, SEEN)}, skipped=True))
    pd.read_csv(labels.path).to_csv(labels.path, index=False)
    assert b"2.0" in labels.path.read_bytes()
    write(labels.path, labels.path.read_bytes().replace(b"skipped", b" Skipped "))
    again = LabelFile(tmp_path, THREE)
    assert again.rows["a.jpg"].points == {
        "a": (10.5, 20.5, SEEN),
        "c": (2.5, 2.5, HIDDEN),
    } and again.count() == {"labelled": 0, "begun": 1, "skipped": 1}
    again.save()
    assert b"2.0" not in again.path.read_bytes() and b",skipped," in again.path.read_bytes()


def test_of_several_categories_and_objects_one_is_read_and_the_rest_is_said(tmp_path):
    data = coco({"a.jpg": [10, 20, 2, 0, 0, 0, 0, 0, 0], "b.jpg": [5, 6, 2, 7, 8, 2, 9, 9, 2]})
    data["categories"].insert(0, {"id": 1, "name": "person", "keypoints": ["x", "y"]})
    data["annotations"].insert(
        0, {"id": 1, "image_id": 10, "category_id": 1, "keypoints": [1, 1, 2, 2, 2, 2]}
    )
    data["annotations"].append(
        {"id": 2, "image_id": 10, "category_id": 5, "keypoints": [1, 1, 2, 2, 2, 2, 0, 0, 0]}
    )  # another cat, with more points
    data["annotations"].append({"id": 3, "image_id": 99, "category_id": 5, "keypoints": []})
    path = write(tmp_path / "keypoints.json", data)
    with pytest.raises(DataError, match="2 categories with keypoints"):
        read_coco(path)
    notes = []
    names, rows = read_coco(path, THREE, notes)
    assert names == THREE and rows["a.jpg"].points == {"a": (1.5, 1.5, SEEN), "b": (2.5, 2.5, SEEN)}
    text = "\n".join(notes)
    assert (
        "'person'" in text
        and "of category 1" in text
        and "several, such as a.jpg" in text
        and "not listed" in text
    )
    labels = LabelFile(tmp_path, THREE)
    assert set(notes) <= set(labels.notes)
    labels.put("a.jpg", Label((80, 100), {"a": (3, 3, SEEN)}))
    data["annotations"][3] |= {"keypoints": [2.5, 2.5, 2, 0, 0, 0, 0, 0, 0], "num_keypoints": 1}
    assert json.loads(path.read_bytes()) == data


def test_a_click_in_a_large_folder_writes_only_what_has_changed(tmp_path):
    """The two files stay as they are, and the click is there for everybody who reads the labels.

    They follow in time, and at `save`."""
    names = [f"p{i}" for i in range(40)]
    write(
        tmp_path / "keypoints.csv",
        to_csv(
            names, {f"{i}.jpg": Label((99, 99), {n: (i % 90, 2, SEEN) for n in names}) for i in range(100)}
        ),
    )
    write(tmp_path / "keypoints.json", to_coco(names, read_csv(tmp_path / "keypoints.csv")[1]))
    picture(tmp_path / "0.jpg", (99, 99))
    labels, size = LabelFile(tmp_path, names), lambda: sum(p.stat().st_size for p in tmp_path.iterdir())
    before, n = (labels.path.read_bytes(), labels.json.read_bytes()), size()
    labels.put("0.jpg", Label((99, 99), {n: (55, 5, SEEN) for n in names}))
    assert (labels.path.read_bytes(), labels.json.read_bytes()) == before and size() - n < 4000
    for kind in ("csv", "json"):
        register("turned", tmp_path / f"keypoints.{kind}")
        with pytest.warns(UserWarning):
            assert load("turned", on_error="skip").keypoints[0, 0].tolist() == [55, 5]
    assert LabelFile(tmp_path, names).rows["0.jpg"].points["p7"] == (55, 5, SEEN)
    labels.put("1.jpg", Label((99, 99), {n: (56, 5, SEEN) for n in names}))
    labels.save()
    assert all(
        rows["1.jpg"].points["p7"] == (56, 5, SEEN) and rows["0.jpg"].points["p7"] == (55, 5, SEEN)
        for rows in whole(tmp_path)
    )
    for i in range(20):
        labels.put("2.jpg", Label((99, 99), {n: (i, 5, SEEN) for n in names}))
    assert read_csv(labels.path)[1]["2.jpg"].points["p7"][0] > 5


def test_a_journal_that_is_damaged_is_put_aside_and_its_good_lines_count(tmp_path):
    names = [f"p{i}" for i in range(40)]
    write(
        tmp_path / "keypoints.csv",
        to_csv(names, {f"{i}.jpg": Label((99, 99), {n: (1, 2, SEEN) for n in names}) for i in range(100)}),
    )
    labels = LabelFile(tmp_path, names)
    labels.put("0.jpg", Label((99, 99), {"p0": (5, 5, SEEN)}))
    labels.put("1.jpg", Label((99, 99), {"p0": (6, 5, SEEN)}))
    with open(labels.journal, "ab") as f:
        f.write(b'{"file": "cut')
    goes_on = LabelFile(tmp_path, names)
    goes_on.put("2.jpg", Label((99, 99), {"p0": (7, 5, SEEN)}))
    assert LabelFile(tmp_path, names).rows["2.jpg"].points["p0"] == (7, 5, SEEN) and goes_on.notes == []
    with open(labels.journal, "ab") as f:
        f.write(b"\0\0\0\n")
    again = LabelFile(tmp_path, names)
    assert [again.rows[f"{i}.jpg"].points["p0"] for i in range(2)] == [(5, 5, SEEN), (6, 5, SEEN)]
    assert any("keypoints.kept-1.journal" in n for n in again.notes)
