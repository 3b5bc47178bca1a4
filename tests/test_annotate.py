"""Labels are never lost: the annotator under SIGKILL, failing writes and a second annotator.

SIGKILL comes at every step of saving, and to a kernel at work; the second annotator is beside the first.

What other programs do to the files is here, too; test_annotate_page.py has the browser. The files of
pictures are odd on purpose: all eight EXIF orientations, broken ones, names that repeat.
"""

import contextlib
import copy
import json
import math
import os
import random
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_browser import wait_for
from torch import nn

from kpnb import annotate
from kpnb.annotate import (
    HIDDEN,
    SEEN,
    Annotator,
    Guesses,
    Label,
    LabelFile,
    guess,
    learn,
    one_round,
    picture_name,
    pictures_in,
    read_coco,
    read_csv,
    register,
    small_network,
    to_coco,
    to_csv,
)
from kpnb.core import DataError
from kpnb.datasets import load
from kpnb.geometry import to_original
from kpnb.keypoints import KeypointDataset

NAMES = ["nose", "left_eye"]
needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "win32", reason="SIGKILL and fork are for Unix"
)


def label(i):
    return Label(
        (160, 120),
        {
            "nose": (i + 0.5, 2 * i, SEEN),
            "left_eye": (math.nan, math.nan, HIDDEN) if i % 3 else (i, i + 0.25, SEEN),
        },
    )


def picture(path, size=(160, 120), seed=0, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)).save(
        path, **kw
    )
    return path


# Processes that label. In the first script each is killed at its k-th step (a file is opened to be written,
# renamed, removed or cut), in the middle of a write (a file may not become longer than so many bytes), until
# one comes to its end. In the second script two label at once.
LABELS = """
import json, math, os, random, resource, signal, sys
from pathlib import Path
from kpnb.annotate import HIDDEN, SEEN, Label, LabelFile

def label(i): return Label((160, 120), {"nose": (i + 0.5, 2 * i, SEEN), \
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
        file.put(f"own-{who}-{i}.jpg", Label((160, 120), {"nose": (who, i, SEEN)}))
        name = ["nose", "left_eye"][who]
        old = file.rows.get(f"both-{i}.jpg", Label((160, 120)))
        file.put(f"both-{i}.jpg", Label((160, 120), old.points | {name: (who + 1, i, SEEN)}))
    os._exit(0 if file.notes == [] else 4)

children = []
for who in range(2):
    if (child := os.fork()) == 0: write(who)
    children.append(child)
os.write(start[1], b"go")
os._exit(max(os.WEXITSTATUS(os.waitpid(c, 0)[1]) for c in children))
"""
)


def whole(folder):
    "Whatever is there can be read."
    return [
        (read_csv if p.suffix == ".csv" else read_coco)(p)[1]
        for p in (folder / "keypoints.csv", folder / "keypoints.json")
        if p.exists()
    ]


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


@contextlib.contextmanager
def no_file_longer_than(n):
    "A disk that is nearly full."
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


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


KERNEL = """
import time
from pathlib import Path
from kpnb.annotate import Annotator
folder = Path({folder!r})
a = Annotator(folder, ["nose", "left_eye"])
told = open(folder / "told", "ab", buffering=0)
while a.todo:
    a.go(a.todo[0]); f = a.at
    a.canvas.move("nose", 3, 4)
    a.hide("left_eye")
    told.write((f + "\\n").encode())
    a.next()
    time.sleep(0.03)
"""


@needs_fork
def test_killed_kernel(tmp_path):
    """A Jupyter kernel in which the annotator works is killed at random moments.

    It is started again until all is labelled."""
    client_of = pytest.importorskip("jupyter_client")
    for i in range(24):
        picture(tmp_path / f"{i:02d}.png", (30, 20), i)
    g, lives = random.Random(0), 0
    done = lambda: (tmp_path / "told").read_text().split() if (tmp_path / "told").exists() else []
    finished = lambda: (
        (tmp_path / "keypoints.csv").exists()
        and sum(r.state(NAMES) == "labelled" for r in read_csv(tmp_path / "keypoints.csv")[1].values()) == 24
    )
    while not finished():  # a label that was saved in the last moment of a life is not told
        lives += 1
        before, manager = len(done()), client_of.KernelManager(kernel_name="python3")
        manager.kernel_spec.argv[0] = sys.executable
        manager.start_kernel(
            env=dict(os.environ, IN_TEST="0", PYTHONPATH=os.pathsep.join(sys.path)), cwd=str(tmp_path)
        )
        client = manager.blocking_client()
        try:
            client.start_channels()
            client.wait_for_ready(timeout=120)
            client.execute(KERNEL.format(folder=str(tmp_path)))
            wait_for(
                lambda: len(done()) >= before + 5 or finished(),
                120,
                lambda: f"the kernel does not label: {len(done())}",
            )
            time.sleep(g.random() * 0.05)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)  # SIGKILL
        rows = whole(tmp_path)[0]
        assert set(done()) <= set(rows) and len(rows) <= len(set(done())) + lives
        assert all(
            rows[f].points["nose"] == (3, 4, SEEN) and rows[f].points["left_eye"][2] == HIDDEN for f in done()
        )
    assert lives >= 2 and len(done()) == len(set(done())), "nothing was labelled twice"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_are_in_the_upright_picture(tmp_path, orientation):
    """A red square is where a click on it says, in all eight orientations.

    So it is, too, in what `load` makes of either file."""
    upright = np.full((60, 90, 3), 40, np.uint8)
    upright[10:14, 70:74] = (255, 0, 0)  # its centre is (72, 12)
    T = Image.Transpose
    back = {
        1: None,
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_90,
        7: T.TRANSVERSE,
        8: T.ROTATE_270,
    }[orientation]
    stored, exif = Image.fromarray(upright), Image.Exif()
    if back is not None:
        stored = stored.transpose(back)
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    a = Annotator(tmp_path, ["red"], side=45)  # shown at half its size
    shown = annotate.read_image(tmp_path / "a.jpg")
    assert shown.shape == (3, 60, 90) and a.size == (90, 60) and a.canvas._size == [30, 45]
    assert shown[0, 10:14, 70:74].float().mean() > 200 and (shown[0] > 150).sum() < 30
    a.canvas.move("red", 36, 6)  # a click on it
    assert a.labels.rows["a.jpg"].points["red"] == (72, 12, SEEN) and a.labels.rows["a.jpg"].size == (90, 60)
    image = json.loads((tmp_path / "keypoints.json").read_text())
    assert (
        image["images"][0]["width"],
        image["images"][0]["height"],
        image["annotations"][0]["keypoints"],
    ) == (90, 60, [71.5, 11.5, 2])
    for kind in ("csv", "json"):
        register("turned", tmp_path / f"keypoints.{kind}")
        ds = load("turned", size=(120, 180))
        assert (
            torch.allclose(ds.keypoints[0, 0], torch.tensor([144.0, 24.0])) and ds.images[0, 0, 23, 143] > 200
        )
        assert torch.allclose(to_original(ds)[0, 0], torch.tensor([72.0, 12.0]), atol=1e-4)


def test_names_that_repeat_and_files_that_are_broken(tmp_path):
    for i, f in enumerate(
        (
            "a.jpg",
            "a.png",
            "sub/a.jpg",
            "sub/deep/b.JPG",
            'odd "name", é.png',
            "line\nbreak.png" if os.name != "nt" else "c.png",
        )
    ):
        picture(tmp_path / f, seed=i)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "phone.HEIC").write_bytes(b"x")
    (tmp_path / ".thumb").mkdir()
    picture(tmp_path / ".thumb/a.jpg")
    names, notes = pictures_in(tmp_path)
    assert len(names) == 6 and {"a.jpg", "a.png", "sub/a.jpg", "sub/deep/b.JPG"} <= set(names)
    assert [sum(n.startswith(f) for n in notes) for f in ("empty.jpg", "text.png", "phone.HEIC")] == [1, 1, 1]
    assert any("a.jpg, a.png differ only in their ending" in n for n in notes) and any(
        "a.jpg: the same name in several subfolders" in n for n in notes
    )
    a = Annotator(tmp_path, NAMES)
    assert all(
        word in a.message.value
        for word in ("empty.jpg", "text.png", "phone.HEIC", "differ only", "several subfolders")
    )
    for i, f in enumerate(names):
        a.go(f)
        a.canvas.move("nose", i + 1, i + 2)
        a.hide("left_eye")
    for kind in ("csv", "json"):
        register("repeated", tmp_path / f"keypoints.{kind}")
        ds = load("repeated")
        assert {f: ds.keypoints[i, 0].tolist() for i, f in enumerate(ds.names)} == {
            f: [i + 1, i + 2] for i, f in enumerate(names)
        }
        assert not ds.visible[:, 1].any() and ds.keypoints[:, 1].isnan().all()


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="these systems refuse such names")
def test_a_name_that_is_no_text(tmp_path):
    picture(tmp_path / "good.jpg")
    try:
        (tmp_path / os.fsdecode(b"bad\xff.jpg")).write_bytes((tmp_path / "good.jpg").read_bytes())
    except OSError:
        pytest.skip("the file system refuses it")
    names, notes = pictures_in(tmp_path)
    assert names == ["good.jpg"] and any("its name is not valid text" in n for n in notes)


def test_random_labels_come_back(tmp_path):
    "Any mixture of states, names and places survives both formats, and both say the same."
    g = random.Random(3)
    for _ in range(30):
        names = g.sample(["nose", "left eye", "x_y", "Ohr, links", 'q"', "é", "nose_x"], g.randint(1, 5))
        places = lambda: {
            n: (g.choice([0, 0.5, g.uniform(0, 4000)]), g.uniform(0, 3000), SEEN)
            if g.random() < 0.7
            else (math.nan, math.nan, HIDDEN)
            for n in names
            if g.random() < 0.8
        }
        rows = {
            f"{g.choice(['', 'sub/', 'ü/'])}{i}.jpg": Label((4000, 3000), places(), g.random() < 0.2)
            for i in range(g.randint(0, 6))
        }
        for write, read, path in (
            (to_csv, read_csv, tmp_path / "t.csv"),
            (to_coco, read_coco, tmp_path / "t.json"),
        ):
            path.write_bytes(write(names, rows))
            found = read(path)
            assert (
                found[0] == names
                and list(found[1]) == list(rows)
                and all(found[1][f].same(r) for f, r in rows.items())
            ), (path.suffix, rows, found)


def test_the_middle_of_a_drag_is_not_saved_but_its_end(tmp_path):
    picture(tmp_path / "a.png")
    a = Annotator(tmp_path, NAMES)
    assert a.canvas.continuous_update is False and a.canvas.allow == "clear"


@pytest.fixture(autouse=True)
def no_sources_left():
    "Names that a test has registered go."
    yield
    for name in ("turned", "repeated"):
        annotate.SOURCES.pop(name, None)


# What other programs write.


def coco(points, names=("a", "b", "c"), **more):
    "A COCO file of another program: picture -> flat keypoints."
    images = [
        {"id": 10 + i, "file_name": f, "width": 100, "height": 80, "license": 1} for i, f in enumerate(points)
    ]
    outlines = {
        "segmentation": [[1, 2, 3, 4]],
        "bbox": [0, 0, 50, 40],
        "area": 1234.5,
        "iscrowd": 0,
        "attributes": {"by": "anna"},
    }
    annotations = [
        {"id": 70 + i, "image_id": 10 + i, "category_id": 5, "keypoints": flat, "num_keypoints": 1} | outlines
        for i, flat in enumerate(points.values())
    ]
    kind = {
        "id": 5,
        "name": "cat",
        "supercategory": "animal",
        "keypoints": list(names),
        "skeleton": [[1, 2]],
        "colour": "red",
    }
    return {
        "info": {"year": 2019},
        "licenses": [{"id": 1, "name": "CC"}],
        "images": images,
        "annotations": annotations,
        "categories": [kind],
    } | more


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


THREE = ["a", "b", "c"]


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
    labels.put("b.jpg", Label((100, 80), labels.rows["b.jpg"].points | {"b": (1, 2, SEEN)}))
    expected = copy.deepcopy(data)
    expected["annotations"][1] |= {"keypoints": [5, 6, 0, 0.5, 1.5, 2, 9, 9, 2], "num_keypoints": 2}
    assert json.loads((tmp_path / "keypoints.json").read_bytes()) == expected
    assert len(list(tmp_path.glob("*kept*"))) == 1


def test_a_correction_in_the_coco_file_counts_and_the_table_is_put_aside(tmp_path):
    labels = LabelFile(tmp_path, THREE)
    for i in range(3):
        labels.put(f"{i}.jpg", Label((100, 80), {n: (i, j, SEEN) for j, n in enumerate(THREE)}))
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
        labels.put(f"{i}.jpg", Label((100, 80), {"a": (i, 7, SEEN)}))
    write(labels.path, labels.path.read_bytes().replace(b"1,7,2", b"33,7,2"))
    labels.put("3.jpg", Label((100, 80), {"a": (1, 1, SEEN)}))
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
            labels.put(file, Label((100, 80), points))
        found = json.loads((folder / "keypoints.json").read_bytes())
        for one, other in zip(found["annotations"], expected["annotations"]):
            if one["keypoints"] == other["keypoints"]:
                other["num_keypoints"] = one["num_keypoints"]  # a label that was set to what it was
        assert found == expected, k
        assert all(r.same(LabelFile(folder, names).rows[f]) for f, r in labels.rows.items())


@pytest.mark.parametrize(
    "bad",
    [
        "v",
        "numbers",
        "null",
        "folder",
        "deep",
        "long",
        "surrogate",
        "twice",
        "id",
        "half",
        "utf8",
        "size",
        "skipped",
        "hidden",
    ],
)
def test_one_broken_file_does_not_lock_out_the_other(tmp_path, bad):
    "It is an error that names file and entry, and beside a good table it is put aside, which is said."
    data = coco({"a.jpg": [10, 20, 2, 1, 1, 1, 2, 2, 2], "b.jpg": [5, 6, 2, 7, 8, 2, 9, 9, 2]})
    path = tmp_path / "keypoints.json"
    make, says = {
        "v": (lambda: data["annotations"][1]["keypoints"].__setitem__(2, -1), "entry 2"),
        "numbers": (lambda: data.update(categories=[1, 2]), "categories, entry 1"),
        "null": (lambda: data.update(categories=None), "categories"),
        "folder": (lambda: None, "a folder"),
        "deep": (lambda: None, "nested too deeply"),
        "long": (lambda: data["annotations"][0]["keypoints"].__setitem__(0, 10**400), "entry 1"),
        "surrogate": (lambda: data["images"][1].update(file_name="\ud800.jpg"), "entry 2"),
        "twice": (lambda: data["categories"][0].update(keypoints=["a", "a", "c"]), "'a' is there 2 times"),
        "id": (lambda: data["images"][1].update(id=10), "b.jpg has the id 10"),
        "half": (lambda: None, "no JSON"),
        "utf8": (lambda: None, "no JSON"),
        "size": (lambda: data["images"][0].update(width=-5), "entry 1"),
        "skipped": (lambda: data["images"][0].update(skipped="false"), "entry 1"),
        "hidden": (lambda: data["annotations"][0]["keypoints"].__setitem__(3, math.inf), "entry 1"),
    }[bad]
    make()
    if bad == "folder":
        path.mkdir()
    else:
        write(
            path,
            {"deep": b"[" * 200_000, "half": json.dumps(data).encode()[:90], "utf8": b'{"a": "\xff"}'}.get(
                bad, data
            ),
        )
    with pytest.raises(DataError, match=f"keypoints.json.*{says}"):
        read_coco(path)
    if bad != "folder":
        with pytest.raises(DataError, match="keypoints.json"):
            LabelFile(tmp_path, THREE)
    good = {"a.jpg": Label((100, 80), {"a": (1, 2, SEEN)})}
    write(tmp_path / "keypoints.csv", to_csv(THREE, good))
    labels = LabelFile(tmp_path, THREE)
    assert labels.rows["a.jpg"].same(good["a.jpg"]) and any(
        "keypoints.kept-1.json" in n and says in n for n in labels.notes
    )
    assert (tmp_path / "keypoints.kept-1.json").exists()
    labels.put("b.jpg", Label((9, 9), {"a": (1, 2, SEEN)}))
    assert [set(rows) for rows in whole(tmp_path)] == [{"a.jpg", "b.jpg"}] * 2


@pytest.mark.parametrize(
    "bad, says",
    [
        (b"file;width", "line 1"),
        (b"\xff", "UTF-8"),
        (b'file,width,height,state,a_x,a_y,a_v\n"' + b"x" * 140_000 + b'",1,1,,,,\n', "line 2"),
        (b"file,width,height,state,a_x,a_y,a_v,a_x,a_y,a_v\n", "'a'"),
        (b"file,width,height,state,a_x,a_y,a_v\na.jpg,-5,4,,,,\n", "line 2.*width is '-5'"),
        (b"file,width,height,state,a_x,a_y,a_v\na.jpg,9,4,,inf,inf,1\n", "line 2"),
        (b"file,width,height,state,a_x,a_y,a_v\na.jpg,9,4,done,,,\n", "line 2.*'done'"),
        (b"file,width,height,state,a_x,a_y,a_v\na.jpg," + b"9" * 400 + b",4,,,,\n", "line 2"),
        (b"file,width,height,state,a_x,a_y,a_v\na.jpg,9,4,,1,,2\n", "line 2"),
        (b"file,width,height,state,a_x,a_y,a_v\na.jpg,9,4,,,,\n./a.jpg,9,4,,,,\n", "line 3.*a.jpg again"),
    ],
)
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
    labels.put("b.jpg", Label((100, 80), {"a": (1, 2, SEEN)}, skipped=True))
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


def test_a_picture_has_one_name(tmp_path):
    """./a.jpg, sub\\\\a.jpg and a decomposed accent are the pictures that are there.

    They are labelled and not also in the rest."""
    for f in ("a.jpg", "sub/a.jpg", "cafe\u0301.png", "b.jpg"):
        picture(tmp_path / f, (20, 10))
    rows = {
        "./a.jpg": Label((20, 10), {"tip": (1, 2, SEEN)}),
        "sub\\a.jpg": Label((20, 10), {"tip": (3, 4, SEEN)}),
        "caf\u00e9.png": Label((20, 10), {"tip": (5, 6, SEEN)}),
    }
    write(tmp_path / "keypoints.csv", to_csv(["tip"], rows))
    a = Annotator(tmp_path, ["tip"])
    assert a.todo == ["b.jpg"] and a.progress().startswith("3 of 4 pictures labelled;")
    a.go("caf\u00e9.png")
    assert tuple(a.canvas.points["tip"]) == (5, 6)
    for kind in ("csv", "json"):
        a.labels.save()
        register("repeated", tmp_path / f"keypoints.{kind}")
        assert (sorted(load("repeated", size=10).names), load("repeated", split="rest", size=10).names) == (
            ["a.jpg", "caf\u00e9.png", "sub/a.jpg"],
            ["b.jpg"],
        )
    assert [picture_name(f) for f in ("./a.jpg", "s\\a.jpg", "s//./a.jpg", "s/../a.jpg")] == [
        "a.jpg",
        "s/a.jpg",
        "s/a.jpg",
        "a.jpg",
    ]


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
    labels.put("a.jpg", Label((100, 80), {"a": (3, 3, SEEN)}))
    data["annotations"][3] |= {"keypoints": [2.5, 2.5, 2, 0, 0, 0, 0, 0, 0], "num_keypoints": 1}
    assert json.loads(path.read_bytes()) == data


def test_a_hidden_point_keeps_its_place(tmp_path):
    "COCO's v = 1: read with its place, not visible, written as 1; without a place it is still hidden."
    picture(tmp_path / "a.jpg", (100, 80))
    write(tmp_path / "keypoints.json", coco({"a.jpg": [10, 20, 1, 30, 40, 2, 0, 0, 0]}))
    a = Annotator(tmp_path, THREE)
    assert a.labels.rows["a.jpg"].points["a"] == (10.5, 20.5, HIDDEN) and tuple(a.canvas.points["a"]) == (
        10.5,
        20.5,
    )
    a.hide("b")
    a.hide("c")
    points = a.labels.rows["a.jpg"].points
    assert points["b"] == (30.5, 40.5, HIDDEN) and math.isnan(points["c"][0]) and points["c"][2] == HIDDEN
    assert json.loads(a.labels.json.read_bytes())["annotations"][0]["keypoints"] == [
        10,
        20,
        1,
        30,
        40,
        1,
        0,
        0,
        0,
    ]
    assert LabelFile(tmp_path, THREE).rows["a.jpg"].same(a.labels.rows["a.jpg"])
    a.canvas.move("b", 31, 41)
    assert a.labels.rows["a.jpg"].points["b"] == (31, 41, SEEN)
    for kind in ("csv", "json"):
        register("turned", tmp_path / f"keypoints.{kind}")
        ds = load("turned")
        assert ds.keypoints[0, :2].tolist() == [[10.5, 20.5], [31, 41]] and ds.keypoints[0, 2].isnan().all()
        assert ds.visible.tolist() == [[False, True, False]]


def test_coco_pictures_with_an_unlabelled_point_load_and_what_is_left_out_is_said(tmp_path):
    for f in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / f, (100, 80))
    data = coco(
        {
            "a.jpg": [10, 20, 2, 0, 0, 0, 5, 5, 2],
            "b.jpg": [5, 6, 2, 7, 8, 2, 9, 9, 2],
            "c.jpg": [0, 0, 0] * 3,
            "gone.jpg": [1, 1, 2] * 3,
        }
    )
    data["annotations"].append(
        {"id": 2, "image_id": 11, "category_id": 5, "keypoints": [1, 1, 2, 0, 0, 0, 0, 0, 0]}
    )
    register("turned", write(tmp_path / "other.json", data))
    said = []
    with pytest.warns(UserWarning):
        ds = load("turned", on_error="skip", skipped=said)
    assert (
        ds.names == ["a.jpg", "b.jpg"]
        and ds.keypoints[0, 1].isnan().all()
        and ds.visible.tolist() == [[True, False, True], [True] * 3]
    )
    text = "\n".join(said)
    assert (
        "c.jpg: not finished" in text
        and "gone.jpg: a label without a picture" in text
        and "several, such as b.jpg" in text
    )
    labels = LabelFile(tmp_path, ["tip", "end"])
    labels.put("a.jpg", Label((100, 80), {"tip": (1, 2, SEEN)}))
    labels.put("b.jpg", Label((100, 80), {"tip": (1, 2, SEEN), "end": (3, 4, SEEN)}))
    register("repeated", labels.path)
    said = []
    with pytest.warns(UserWarning):
        assert load("repeated", on_error="skip", skipped=said).names == ["b.jpg"]
    assert said == ["a.jpg: not finished: end is not decided"] and load("repeated", split="rest").names == [
        "a.jpg",
        "c.jpg",
    ]


@pytest.mark.parametrize(
    "name",
    ["=HYPERLINK(1).jpg", "+1.jpg", "-1.jpg", "@a.jpg", "a;=1+1.jpg", '=a",b.jpg', "sub/=a.jpg", "=é.jpg"],
)
def test_a_picture_named_like_a_formula_is_inert_in_a_spreadsheet_and_reads_back(tmp_path, name):
    picture(tmp_path / name, (20, 10))
    a = Annotator(tmp_path, ["tip"])
    a.canvas.move("tip", 3, 4)
    text = a.labels.path.read_text(encoding="utf-8")
    cells = [
        c
        for part in (",", ";")
        for row in __import__("csv").reader(text.splitlines(), delimiter=part)
        for c in row
    ]
    assert not [c for c in cells if c.startswith(("=", "+", "-", "@", "\t"))]
    assert LabelFile(tmp_path, ["tip"]).rows[name].points == {"tip": (3, 4, SEEN)} and list(
        read_csv(a.labels.path)[1]
    ) == [name]
    with pytest.raises(ValueError, match="=x"):
        to_csv(["=x"], {})


@needs_fork
def test_a_link_stays_a_link_and_a_private_file_stays_private(tmp_path):
    picture(tmp_path / "p/a.jpg")
    (tmp_path / "far").mkdir()
    for kind in ("csv", "json"):
        write(
            tmp_path / f"far/labels.{kind}",
            (to_csv if kind == "csv" else to_coco)(
                ["tip"], {"a.jpg": Label((160, 120), {"tip": (1, 2, SEEN)})}
            ),
        ).chmod(0o600)
        (tmp_path / f"p/keypoints.{kind}").symlink_to(tmp_path / f"far/labels.{kind}")
    a = Annotator(tmp_path / "p", ["tip"])
    a.canvas.move("tip", 3, 4)
    assert all((tmp_path / f"p/keypoints.{k}").is_symlink() for k in ("csv", "json"))
    assert read_csv(tmp_path / "far/labels.csv")[1]["a.jpg"].points["tip"] == (3, 4, SEEN)
    written = [
        p for f in ("p", "far") for p in (tmp_path / f).iterdir() if p.suffix in (".csv", ".json", ".journal")
    ]
    assert {p.suffix for p in written} == {".csv", ".json", ".journal"} and all(
        p.stat().st_mode & 0o777 == 0o600 for p in written
    )


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


# Mirrors, and the way back to the file.


class Still(nn.Module):
    "Maps that do not depend on the picture."

    def __init__(self, k):
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(k, 8, 8))

    def forward(self, x):
        return self.maps.expand(len(x), -1, -1, -1) + 0 * x.mean()


def test_names_that_say_left_and_right_need_their_pairs(tmp_path):
    """They need them in `register`, `learn`, `guess` and `one_round`.

    With pairs all go, and a left without a right goes without a mirror."""
    sides, pairs = ["left_eye", "right_eye"], [("left_eye", "right_eye")]
    for i in range(3):
        picture(tmp_path / f"{i}.png", (16, 16), i)
    a = Annotator(tmp_path, sides)
    for f in ("0.png", "1.png"):
        a.go(f)
        for n in sides:
            a.canvas.move(n, 3, 4)
    ds = KeypointDataset(
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.full((2, 2, 2), 5.0), keypoint_names=sides
    )
    calls = [
        lambda: register("turned", a.labels.path),
        lambda: learn(small_network(2), ds, 1, progress=False),
        lambda: guess(Still(2), ds),
        lambda: one_round(a, small_network, steps=1, size=16, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="left_eye"):
            call()
    register("turned", a.labels.path, pairs=pairs)
    assert load("turned").pairs == [(0, 1)]
    one_round(a, small_network, pairs, steps=1, size=16, progress=False)
    lone = KeypointDataset(ds.images, ds.keypoints[:, :1], keypoint_names=["left_eye"])
    with pytest.raises(ValueError, match="left_eye"):
        learn(small_network(1), lone, 1, progress=False)
    learn(small_network(1), lone, 1, flip=0, progress=False)
    assert "mirror" not in guess(Still(1), lone, mirror=False).doubts


def test_guesses_come_back_to_the_file_after_any_chain(tmp_path):
    """Points and ellipses that `propose` shows come back after any chain.

    Before that, `load` has resized a wide picture, and a crop and a mirror have moved it again."""
    picture(tmp_path / "a.png", (200, 100))
    a = Annotator(tmp_path, ["left_eye", "right_eye"])
    a.skip()
    a.go("a.png")
    a.canvas.move("left_eye", 60, 40)
    a.canvas.move("right_eye", 120, 50)
    register("turned", a.labels.path, pairs=[("left_eye", "right_eye")])
    ds = load("turned", size=64, keep_aspect=True)
    matrix = torch.tensor([[[-1.5, 0, 70.0], [0, 1.5, -20], [0, 0, 1]]], dtype=torch.float64)
    moved = ds.warp(matrix)
    flat = torch.diag(torch.tensor([9.0, 1.0])).expand(1, 2, 2, 2)
    a.propose(Guesses(moved.keypoints, flat, {}, moved.names), moved)
    places, ellipses = a.guesses["a.png"]
    assert np.allclose([places["left_eye"], places["right_eye"]], [(60, 40), (120, 50)], atol=0.02)
    scale = 200 / 64 / 1.5
    assert all(torch.allclose(c, scale**2 * flat[0, 0], rtol=1e-3, atol=1e-2) for c in ellipses.values())


def test_what_a_page_shows_is_text(tmp_path):
    "Names and errors that hold markup are escaped wherever the annotator shows them."
    evil = "<img src=x onerror=alert(1)>.jpg".replace("/", "")
    picture(tmp_path / evil, (20, 10))
    (tmp_path / "<b>broken.jpg").write_bytes(b"no")
    a = Annotator(tmp_path, ["<i>tip", "constructor", "__proto__", "$x"])
    for n in a.names:
        a.canvas.move(n, 3, 4)
    a.say("<script>", True)
    shown = a.head.value + a.message.value
    assert (
        "<img" not in shown
        and "<script" not in shown
        and "<i>" not in shown
        and "&lt;i&gt;tip: placed" in shown
    )
    assert LabelFile(tmp_path, a.names).rows[evil].state(a.names) == "labelled"
    a._repr_mimebundle_()  # the still picture takes a name such as $x for text, not for a formula
