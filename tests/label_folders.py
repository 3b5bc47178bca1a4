"""What the tests of labels share: pictures, labels, files of other programs, a disk that is nearly full."""

import contextlib
import json
import math
import os
import random
import sys

import numpy as np
import pytest
from PIL import Image

from kpnb.coco import read_coco
from kpnb.labels import HIDDEN, SEEN, Label, read_csv

NAMES = ["nose", "left_eye"]
THREE = ["a", "b", "c"]
BROKEN = [
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
]
BROKEN_TABLES = [  # a table that cannot be read; what the error must say
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
]
needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "win32", reason="SIGKILL and fork are for Unix"
)


def label(i):
    return Label(
        (120, 160),
        {
            "nose": (i + 0.5, 2 * i, SEEN),
            "left_eye": (math.nan, math.nan, HIDDEN) if i % 3 else (i, i + 0.25, SEEN),
        },
    )


def picture(path, size=(120, 160), seed=0, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path, **kw)
    return path


def whole(folder):
    "Whatever is there can be read."
    return [
        (read_csv if p.suffix == ".csv" else read_coco)(p)[1]
        for p in (folder / "keypoints.csv", folder / "keypoints.json")
        if p.exists()
    ]


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


def random_labels(g):
    "Any mixture of states, names and places: names of points, and labels by the picture's name."
    names = g.sample(["nose", "left eye", "x_y", "Ohr, links", 'q"', "é", "nose_x"], g.randint(1, 5))
    places = lambda: {
        n: (g.choice([0, 0.5, g.uniform(0, 4000)]), g.uniform(0, 3000), SEEN)
        if g.random() < 0.7
        else (math.nan, math.nan, HIDDEN)
        for n in names
        if g.random() < 0.8
    }
    rows = {
        f"{g.choice(['', 'sub/', 'ü/'])}{i}.jpg": Label((3000, 4000), places(), g.random() < 0.2)
        for i in range(g.randint(0, 6))
    }
    return names, rows


def random_labels_come_back(written, read, path):
    "What one function makes of labels, as bytes, the other reads from a file."
    g = random.Random(3)
    for _ in range(30):
        names, rows = random_labels(g)
        path.write_bytes(written(names, rows))
        found = read(path)
        assert found[0] == names and list(found[1]) == list(rows), (rows, found)
        assert all(found[1][f].same(r) for f, r in rows.items()), (rows, found)


def broken_coco(path, bad):
    "A COCO file that is broken in one way; what the error must say."
    data = coco({"a.jpg": [10, 20, 2, 1, 1, 1, 2, 2, 2], "b.jpg": [5, 6, 2, 7, 8, 2, 9, 9, 2]})
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
    return says
