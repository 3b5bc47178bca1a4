"""Labels are never lost: the annotator under SIGKILL at every step of saving, under failing writes and with a killed kernel; test_annotate_page.py has the browser.

The files of pictures are odd on purpose: all eight EXIF orientations, broken ones, names that repeat.
"""
import itertools
import json
import math
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from test_browser import wait_for

from kpnb import annotate, core
from kpnb.annotate import HIDDEN, SEEN, Annotator, Label, LabelFile, pictures_in, read_coco, read_csv, register, to_coco, to_csv
from kpnb.datasets import load, to_original

NAMES = ["nose", "left_eye"]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "win32", reason="SIGKILL and fork are for Unix")


def label(i): return Label((160, 120), {"nose": (i + 0.5, 2 * i, SEEN), "left_eye": (math.nan, math.nan, HIDDEN) if i % 3 else (i, i + 0.25, SEEN)})


def picture(path, size=(160, 120), seed=0, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path, **kw)
    return path


# A process that labels, and stops dead at the k-th step of saving. `steps` are: a file was opened, half of it was written, all of it, it was flushed to the disk,
# it is about to get its name, it has its name.
STEPS = """
import os, signal, stat
from kpnb import core

class Halfway:
    "A file that stops between the halves of what is written."
    def __init__(self, f, step): self.f, self.step = f, step
    def __enter__(self): self.f.__enter__(); return self
    def __exit__(self, *a): return self.f.__exit__(*a)
    def __getattr__(self, name): return getattr(self.f, name)
    def write(self, data):
        self.f.write(data[:len(data) // 2]); self.f.flush(); self.step()
        self.f.write(data[len(data) // 2:]); self.f.flush(); self.step()

class Os:
    "The os module with steps."
    def __init__(self, step): self.step = step
    def __getattr__(self, name): return getattr(os, name)
    def fsync(self, fd):
        os.fsync(fd)
        if not stat.S_ISDIR(os.fstat(fd).st_mode): self.step()
    def replace(self, a, b): self.step(); os.replace(a, b); self.step()

def count_steps(stop):
    "`stop(i)` is called at the i-th step of every `write_safely`."
    made = [0]
    def step():
        made[0] += 1
        stop(made[0])
    def opened(*a, **kw):
        f = open(*a, **kw); step()
        return Halfway(f, step)
    core.open, core.os = opened, Os(step)
    return made
"""
KILLED = STEPS + """
import json, math, sys
from pathlib import Path
from kpnb.annotate import HIDDEN, SEEN, Label, LabelFile

def label(i): return Label((160, 120), {"nose": (i + 0.5, 2 * i, SEEN), "left_eye": (math.nan, math.nan, HIDDEN) if i % 3 else (i, i + 0.25, SEEN)})

root, n, k = Path(sys.argv[1]), 4, 0
while True:
    k += 1
    folder = root / str(k)
    folder.mkdir()
    if (child := os.fork()) == 0:
        count_steps(lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == k else None)
        file = LabelFile(folder, ["nose", "left_eye"])
        with open(folder / "told", "ab", buffering=0) as told:
            for i in range(n):
                file.put(f"{i}.jpg", label(i))
                told.write(f"{i}\\n".encode())
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status): break
print(k - 1, flush=True)
os._exit(0 if os.WEXITSTATUS(status) == 0 else 3)
"""


def whole(folder):
    "Whatever is there can be read, and the two files differ in one picture at most."
    found = [(read_csv if p.suffix == ".csv" else read_coco)(p)[1] for p in (folder / "keypoints.csv", folder / "keypoints.json") if p.exists()]
    if len(found) == 2: assert set(found[1]) <= set(found[0]) and len(found[0]) - len(found[1]) <= 1
    return found


@needs_fork
def test_killed_at_every_step_of_saving(tmp_path):
    "After SIGKILL at any step, every label that was taken is on the disk, at most the one in the making is missing, and a new process goes on."
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    kills = int(run.stdout)
    assert kills == 4 * 2 * 6 # pictures, files, steps
    for k in range(1, kills + 1):
        folder = tmp_path / str(k)
        taken = (folder / "told").read_text().split()
        whole(folder)
        file = LabelFile(folder, NAMES)
        assert set(taken) <= {f.removesuffix(".jpg") for f in file.rows} and len(file.rows) <= len(taken) + 1, (k, taken, file.rows)
        assert all(r.same(label(int(f.removesuffix(".jpg")))) for f, r in file.rows.items()), k
        assert file.notes == [], (k, file.notes) # an interrupted save is nothing that a reader must know of
        for i in range(4):
            if f"{i}.jpg" not in file.rows: file.put(f"{i}.jpg", label(i))
        assert [sorted(rows) for rows in whole(folder)] == [[f"{i}.jpg" for i in range(4)]] * 2
        assert not list(folder.glob("*kept*"))


def test_every_write_may_fail(tmp_path):
    "A write that fails at any step is an error for the caller; the files stay whole, and the next save brings everything."
    space = {}
    exec(STEPS, space)
    for k in itertools.count(1):
        folder = tmp_path / str(k)
        folder.mkdir()
        file = LabelFile(folder, NAMES)
        file.put("0.jpg", label(0))

        def stop(i, k=k):
            if i == k: raise OSError(28, "No space left on device")
        space["count_steps"](stop)
        failed = 0
        try:
            for i in range(1, 3):
                try:
                    file.put(f"{i}.jpg", label(i))
                    assert file.saved
                except OSError:
                    failed += 1
                    assert not file.saved
                assert any("0.jpg" in rows for rows in whole(folder)[:1])
        finally:
            del core.open
            core.os = os
        if not failed: break
        assert failed == 1 and len(whole(folder)) == 2
        file.save()
        assert [sorted(rows) for rows in whole(folder)] == [["0.jpg", "1.jpg", "2.jpg"]] * 2
    assert k == 2 * 2 * 6 + 1


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
