"""Small pictures and label files that several tests write."""

import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from kpnb.datasets import load
from kpnb.people import face_points

KAGGLE_NAMES = face_points(15)[1]


def picture(w=20, h=12, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8))


def asf(points=((0.5, 0.25),) * 58):
    return (
        "# AAM\n58\n" + "".join(f"0 4 {x} {y} {i} 0 1\n" for i, (x, y) in enumerate(points)) + "01-1m.jpg\n"
    )


def pts(points=((5, 6),) * 68):
    return "version: 1\nn_points: 68\n{\n" + "".join(f"{x} {y}\n" for x, y in points) + "}\n"


def noses(n=30):
    return "".join(f'cat_{i}.jpg,"({i}, {2 * i})"\n' for i in range(n))


def xml():
    parts = "".join(f"<part name='{k:02}' x='{k}' y='{2 * k}'/>" for k in range(68))
    return (
        "<dataset><images><image file='a.jpg'>\n"
        f"<box top='1' left='2' width='30' height='40'>{parts}</box>\n"
        "</image></images></dataset>"
    )


def kaggle():
    row = ",".join([*("" if i % 7 == 0 else str(i / 3) for i in range(30)), " ".join(["7"] * 9216)])
    return (
        ",".join([f"{n}_{a}" for n in KAGGLE_NAMES for a in "xy"] + ["Image"])
        + "\n"
        + row
        + "\n"
        + row
        + "\n"
    )


def imm(folder, count=3, **save):
    folder = folder / "imm_face_db"
    folder.mkdir(parents=True)
    for i in range(count):
        picture(64, 48, i).save(folder / f"01-{i + 1}m.jpg", **save)
        (folder / f"01-{i + 1}m.asf").write_text(asf([(0.1 + k / 100, 0.9 - k / 80) for k in range(58)]))
    return folder


def note(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def parts(numbers):
    return "".join(f"<part name='{k:02}' x='{k}' y='{2 * k}'/>" for k in numbers)


def sheet(*boxes, file="file='a.jpg'"):
    "An XML file with these boxes, each of (attributes, numbers of parts)."
    inner = "".join(f"<box {a}>{parts(numbers)}</box>\n" for a, numbers in boxes)
    return f"<dataset><images><image {file}>\n{inner}</image></images></dataset>"


BOX, OTHER_BOX, THIRD_BOX = (f"top='1' left='{x}' width='30' height='40'" for x in (2, 3, 4))


def png(width, height, bits, colour, rows):
    "A PNG written by hand."

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def left_out(name, root, **kw):
    "The lines in `skipped`, which a warning announces."
    skipped = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = load(name, root, skipped=skipped, **kw)
    said = " ".join(str(w.message) for w in caught if w.category is UserWarning)
    assert bool(said) == bool(skipped) and (not said or skipped[0] in said)
    return ds, skipped


def mutated(good, rng):
    "A good file with a few bytes changed, cut, repeated or put in."
    data = bytearray(good)
    pieces = [
        b"\0",
        b"[" * 3000,
        b"{",
        b'"',
        b"\xff\xfe",
        b"<",
        b"&a;",
        b"9" * 5000,
        b"1e999",
        b"NaN",
        rb"\ud800",
        b"\r",
        b",",
        b"\xed\xa0\x80",
        b"-",
        b"x" * 140_000,
    ]
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[i : i + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[i : i + rng.randint(1, 60)]
            case 2:
                data[i:i] = rng.choice(pieces)
            case 3:
                data[i:i] = data[: rng.randrange(len(data) + 1)]
    return bytes(data)
