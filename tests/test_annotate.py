"""The annotator's window: a killed kernel, pictures that lie on their side, and names that are odd.

What happens to the files is in test_label_file.py; test_annotate_page.py has the browser. The files of
pictures are odd on purpose: all eight EXIF orientations, broken ones, names that repeat.
"""

import json
import math
import os
import random
import sys
import time

import numpy as np
import pytest
import torch
from label_folders import NAMES, THREE, coco, needs_fork, picture, whole, write
from PIL import Image
from test_browser import wait_for

from kpnb.annotate import Annotator, Guesses
from kpnb.coco import to_coco
from kpnb.datasets import load
from kpnb.files import read_image
from kpnb.geometry import to_original
from kpnb.label_file import LabelFile
from kpnb.labels import HIDDEN, SEEN, Label, pictures_in, read_csv, to_csv
from kpnb.own_data import register

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
        picture(tmp_path / f"{i:02d}.png", (20, 30), i)
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
    shown = read_image(tmp_path / "a.jpg")
    assert shown.shape == (3, 60, 90) and a.size == (60, 90) and a.canvas._size == [30, 45]
    assert shown[0, 10:14, 70:74].float().mean() > 200 and (shown[0] > 150).sum() < 30
    a.canvas.move("red", 36, 6)  # a click on it
    assert a.labels.rows["a.jpg"].points["red"] == (72, 12, SEEN) and a.labels.rows["a.jpg"].size == (60, 90)
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


def test_the_middle_of_a_drag_is_not_saved_but_its_end(tmp_path):
    picture(tmp_path / "a.png")
    a = Annotator(tmp_path, NAMES)
    assert a.canvas.continuous_update is False and a.canvas.allow == "clear"


def test_a_picture_has_one_name(tmp_path):
    """./a.jpg, sub\\\\a.jpg and a decomposed accent are the pictures that are there.

    They are labelled and not also in the rest."""
    for f in ("a.jpg", "sub/a.jpg", "cafe\u0301.png", "b.jpg"):
        picture(tmp_path / f, (10, 20))
    rows = {
        "./a.jpg": Label((10, 20), {"tip": (1, 2, SEEN)}),
        "sub\\a.jpg": Label((10, 20), {"tip": (3, 4, SEEN)}),
        "caf\u00e9.png": Label((10, 20), {"tip": (5, 6, SEEN)}),
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


def test_a_hidden_point_keeps_its_place(tmp_path):
    "COCO's v = 1: read with its place, not visible, written as 1; without a place it is still hidden."
    picture(tmp_path / "a.jpg", (80, 100))
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


@pytest.mark.parametrize(
    "name",
    ["=HYPERLINK(1).jpg", "+1.jpg", "-1.jpg", "@a.jpg", "a;=1+1.jpg", '=a",b.jpg', "sub/=a.jpg", "=é.jpg"],
)
def test_a_picture_named_like_a_formula_is_inert_in_a_spreadsheet_and_reads_back(tmp_path, name):
    picture(tmp_path / name, (10, 20))
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
                ["tip"], {"a.jpg": Label((120, 160), {"tip": (1, 2, SEEN)})}
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


def test_guesses_come_back_to_the_file_after_any_chain(tmp_path):
    """Points and ellipses that `propose` shows come back after any chain.

    Before that, `load` has resized a wide picture, and a crop and a mirror have moved it again."""
    picture(tmp_path / "a.png", (100, 200))
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
    picture(tmp_path / evil, (10, 20))
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
