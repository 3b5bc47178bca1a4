"""Labels are never lost: the annotator under SIGKILL at every step of saving, under failing writes, with a killed kernel and with a second annotator beside it.

What other programs do to the files is here, too; test_annotate_page.py has the browser. The files of pictures are odd on purpose: all eight EXIF orientations,
broken ones, names that repeat.
"""
import contextlib
import copy
import itertools
import json
import math
import os
import random
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_browser import wait_for
from torch import nn

from kpnb import annotate
from kpnb.annotate import (HIDDEN, SEEN, Annotator, Guesses, Label, LabelFile, guess, learn, one_round, picture_name, pictures_in, read_coco, read_csv, register,
                           small_network, to_coco, to_csv)
from kpnb.core import DataError
from kpnb.datasets import load, to_original
from kpnb.geometry import KeypointDataset

NAMES = ["nose", "left_eye"]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "win32", reason="SIGKILL and fork are for Unix")


def label(i): return Label((160, 120), {"nose": (i + 0.5, 2 * i, SEEN), "left_eye": (math.nan, math.nan, HIDDEN) if i % 3 else (i, i + 0.25, SEEN)})


def picture(path, size=(160, 120), seed=0, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path, **kw)
    return path


# Processes that label. In the first script each is killed at its k-th step (a file is opened to be written, renamed, removed or cut), in the middle of a write (a file may not
# become longer than so many bytes), until one comes to its end. In the second script two label at once.
LABELS = """
import json, math, os, random, resource, signal, sys
from pathlib import Path
from kpnb.annotate import HIDDEN, SEEN, Label, LabelFile

def label(i): return Label((160, 120), {"nose": (i + 0.5, 2 * i, SEEN), "left_eye": (math.nan, math.nan, HIDDEN) if i % 3 else (i, i + 0.25, SEEN)})

def work(folder, n=2):
    file = LabelFile(folder, ["nose", "left_eye"])
    with open(folder / "told", "ab", buffering=0) as told:
        for i in range(n):
            file.put(f"{i}.jpg", label(i))
            told.write(f"{i}\\n".encode())
"""
KILLED = LABELS + """
def is_step(event, args): return event in ("os.rename", "os.remove", "os.truncate", "os.mkdir") or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))

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
TOGETHER = LABELS + """
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


def whole(folder):
    "Whatever is there can be read."
    return [(read_csv if p.suffix == ".csv" else read_coco)(p)[1] for p in (folder / "keypoints.csv", folder / "keypoints.json") if p.exists()]


def run(script, *args):
    done = subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, timeout=300)
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
        assert set(taken) <= {f.removesuffix(".jpg") for f in file.rows} and len(file.rows) <= len(taken) + 1, (folder.name, taken, file.rows)
        assert all(r.same(label(int(f.removesuffix(".jpg")))) for f, r in file.rows.items()), folder.name
        assert file.notes == [], (folder.name, file.notes) # an interrupted save is nothing that a reader must know of
        file.put("2.jpg", label(2))
        assert [set(rows) for rows in whole(folder)] == [{f"{i}.jpg" for i in taken} | set(file.rows) | {"2.jpg"}] * 2
        assert not list(folder.glob("*kept*"))


@needs_fork
def test_two_annotators_at_once_lose_nothing(tmp_path):
    "Two processes label pictures of their own, and one point each of the same pictures."
    run(TOGETHER, tmp_path, 12)
    for rows in whole(tmp_path):
        assert len(rows) == 36
        assert all(rows[f"own-{who}-{i}.jpg"].points == {"nose": (who, i, SEEN)} for who in range(2) for i in range(12))
        assert all(rows[f"both-{i}.jpg"].points == {"nose": (1, i, SEEN), "left_eye": (2, i, SEEN)} for i in range(12))
    assert not list(tmp_path.glob("*kept*")) and not list(tmp_path.glob(".*.part"))


def test_annotators_that_take_turns_keep_what_the_other_did(tmp_path):
    "The points of one picture, a removal, and a failed save between them."
    one, two = LabelFile(tmp_path, NAMES), LabelFile(tmp_path, NAMES)
    one.put("a.jpg", Label((9, 9), {"nose": (1, 2, SEEN)}))
    two.put("a.jpg", Label((9, 9), {"left_eye": (3, 4, SEEN)}))
    assert two.rows["a.jpg"].points == {"nose": (1, 2, SEEN), "left_eye": (3, 4, SEEN)}
    one.put("a.jpg", Label((9, 9))) # takes the nose away, and has not seen the eye
    assert one.rows["a.jpg"].points == {"left_eye": (3, 4, SEEN)}
    two.put("b.jpg", Label((9, 9), {"nose": (5, 6, SEEN)}, True))
    one.save()
    assert one.rows["b.jpg"].skipped and (one.notes, two.notes) == ([], [])


@contextlib.contextmanager
def no_file_longer_than(n):
    "A disk that is nearly full."
    import resource
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, old[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)


@needs_fork
def test_every_write_may_fail(tmp_path):
    "A write that fails after any number of bytes is an error for the caller; the files stay whole, and the next save brings everything."
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
    "A Jupyter kernel in which the annotator works is killed at random moments, and started again until all is labelled."
    client_of = pytest.importorskip("jupyter_client")
    for i in range(24): picture(tmp_path / f"{i:02d}.png", (30, 20), i)
    g, lives = random.Random(0), 0
    done = lambda: (tmp_path / "told").read_text().split() if (tmp_path / "told").exists() else []
    finished = lambda: (tmp_path / "keypoints.csv").exists() and sum(r.state(NAMES) == "labelled" for r in read_csv(tmp_path / "keypoints.csv")[1].values()) == 24
    while not finished(): # a label that was saved in the last moment of a life is not told
        lives += 1
        before, manager = len(done()), client_of.KernelManager(kernel_name="python3")
        manager.kernel_spec.argv[0] = sys.executable
        manager.start_kernel(env=dict(os.environ, IN_TEST="0", PYTHONPATH=os.pathsep.join(sys.path)), cwd=str(tmp_path))
        client = manager.blocking_client()
        try:
            client.start_channels(); client.wait_for_ready(timeout=120)
            client.execute(KERNEL.format(folder=str(tmp_path)))
            wait_for(lambda: len(done()) >= before + 5 or finished(), 120, lambda: f"the kernel does not label: {len(done())}")
            time.sleep(g.random() * 0.05)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True) # SIGKILL
        rows = whole(tmp_path)[0]
        assert set(done()) <= set(rows) and len(rows) <= len(set(done())) + lives
        assert all(rows[f].points["nose"] == (3, 4, SEEN) and rows[f].points["left_eye"][2] == HIDDEN for f in done())
    assert lives >= 2 and len(done()) == len(set(done())), "nothing was labelled twice"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_are_in_the_upright_picture(tmp_path, orientation):
    "A red square is where a click on it says, in all eight orientations, and in what `load` makes of either file."
    upright = np.full((60, 90, 3), 40, np.uint8)
    upright[10:14, 70:74] = (255, 0, 0) # its centre is (72, 12)
    T = Image.Transpose
    back = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270}[orientation]
    stored, exif = Image.fromarray(upright), Image.Exif()
    if back is not None: stored = stored.transpose(back)
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    a = Annotator(tmp_path, ["red"], side=45) # shown at half its size
    shown = annotate.read_image(tmp_path / "a.jpg")
    assert shown.shape == (3, 60, 90) and a.size == (90, 60) and a.canvas._size == [30, 45]
    assert shown[0, 10:14, 70:74].float().mean() > 200 and (shown[0] > 150).sum() < 30
    a.canvas.move("red", 36, 6) # a click on it
    assert a.labels.rows["a.jpg"].points["red"] == (72, 12, SEEN) and a.labels.rows["a.jpg"].size == (90, 60)
    image = json.loads((tmp_path / "keypoints.json").read_text())
    assert (image["images"][0]["width"], image["images"][0]["height"], image["annotations"][0]["keypoints"]) == (90, 60, [71.5, 11.5, 2])
    for kind in ("csv", "json"):
        register("turned", tmp_path / f"keypoints.{kind}")
        ds = load("turned", size=(120, 180))
        assert torch.allclose(ds.keypoints[0, 0], torch.tensor([144.0, 24.0])) and ds.images[0, 0, 23, 143] > 200
        assert torch.allclose(to_original(ds)[0, 0], torch.tensor([72.0, 12.0]), atol=1e-4)


def test_names_that_repeat_and_files_that_are_broken(tmp_path):
    for i, f in enumerate(("a.jpg", "a.png", "sub/a.jpg", "sub/deep/b.JPG", 'odd "name", é.png', "line\nbreak.png" if os.name != "nt" else "c.png")): picture(tmp_path / f, seed=i)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "phone.HEIC").write_bytes(b"x")
    (tmp_path / ".thumb").mkdir()
    picture(tmp_path / ".thumb/a.jpg")
    names, notes = pictures_in(tmp_path)
    assert len(names) == 6 and {"a.jpg", "a.png", "sub/a.jpg", "sub/deep/b.JPG"} <= set(names)
    assert [sum(n.startswith(f) for n in notes) for f in ("empty.jpg", "text.png", "phone.HEIC")] == [1, 1, 1]
    assert any("a.jpg, a.png differ only in their ending" in n for n in notes) and any("a.jpg: the same name in several subfolders" in n for n in notes)
    a = Annotator(tmp_path, NAMES)
    assert all(word in a.message.value for word in ("empty.jpg", "text.png", "phone.HEIC", "differ only", "several subfolders"))
    for i, f in enumerate(names):
        a.go(f)
        a.canvas.move("nose", i + 1, i + 2); a.hide("left_eye")
    for kind in ("csv", "json"):
        register("repeated", tmp_path / f"keypoints.{kind}")
        ds = load("repeated")
        assert {f: ds.keypoints[i, 0].tolist() for i, f in enumerate(ds.names)} == {f: [i + 1, i + 2] for i, f in enumerate(names)}
        assert not ds.visible[:, 1].any() and ds.keypoints[:, 1].isnan().all()


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="these systems refuse such names")
def test_a_name_that_is_no_text(tmp_path):
    picture(tmp_path / "good.jpg")
    try: (tmp_path / os.fsdecode(b"bad\xff.jpg")).write_bytes((tmp_path / "good.jpg").read_bytes())
    except OSError: pytest.skip("the file system refuses it")
    names, notes = pictures_in(tmp_path)
    assert names == ["good.jpg"] and any("its name is not valid text" in n for n in notes)


def test_random_labels_come_back(tmp_path):
    "Any mixture of states, names and places survives both formats, and both say the same."
    g = random.Random(3)
    for _ in range(30):
        names = g.sample(["nose", "left eye", "x_y", "Ohr, links", 'q"', "é", "nose_x"], g.randint(1, 5))
        places = lambda: {n: (g.choice([0, 0.5, g.uniform(0, 4000)]), g.uniform(0, 3000), SEEN) if g.random() < 0.7 else (math.nan, math.nan, HIDDEN) for n in names if g.random() < 0.8}
        rows = {f"{g.choice(['', 'sub/', 'ü/'])}{i}.jpg": Label((4000, 3000), places(), g.random() < 0.2) for i in range(g.randint(0, 6))}
        for write, read, path in ((to_csv, read_csv, tmp_path / "t.csv"), (to_coco, read_coco, tmp_path / "t.json")):
            path.write_bytes(write(names, rows))
            found = read(path)
            assert found[0] == names and list(found[1]) == list(rows) and all(found[1][f].same(r) for f, r in rows.items()), (path.suffix, rows, found)


def test_the_middle_of_a_drag_is_not_saved_but_its_end(tmp_path):
    picture(tmp_path / "a.png")
    a = Annotator(tmp_path, NAMES)
    assert a.canvas.continuous_update is False and a.canvas.allow == "clear"


@pytest.fixture(autouse=True)
def no_sources_left():
    "Names that a test has registered go."
    yield
    for name in ("turned", "repeated"): annotate.SOURCES.pop(name, None)
