"""Files that are odd, broken or hostile: they load as they should, or are refused.

The refusal is a DataError that names them.
"""

import inspect
import os
import random
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from on_disk import both
from PIL import Image, JpegImagePlugin

from kpnb import datasets
from kpnb.core import DataError
from kpnb.datasets import (
    IBUG_NAMES,
    IBUG_PAIRS,
    IMM_NAMES,
    IMM_PAIRS,
    KAGGLE_NAMES,
    KAGGLE_PAIRS,
    SOURCES,
    describe,
    imm_manifest,
    load,
    read_asf,
    read_dlib_xml,
    read_image,
    read_json,
    read_kaggle,
    read_noses,
    read_pts,
    read_table,
    read_xml,
)
from kpnb.downloads import DownloadError
from kpnb.geometry import to_original


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


READERS = {
    "x.asf": (asf, read_asf),
    "x.pts": (pts, read_pts),
    "x.txt": (noses, read_noses),
    "x.xml": (xml, read_dlib_xml),
    "x.csv": (kaggle, lambda path: read_kaggle(path, KAGGLE_NAMES)),
}


@pytest.mark.parametrize("name", READERS)
def test_line_ends_and_byte_order_marks(tmp_path, name):
    make, read = READERS[name]
    (tmp_path / name).write_text(make(), newline="\n")
    plain = read(tmp_path / name)
    for data in (make().replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + make().encode()):
        (tmp_path / name).write_bytes(data)
        assert repr(read(tmp_path / name)) == repr(plain)


@pytest.mark.parametrize("name", READERS)
def test_damaged_labels_are_refused_and_never_crash(tmp_path, name):
    make, read = READERS[name]
    good, rng, path, refused = make().encode(), random.Random(0), tmp_path / name, 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            i = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[i] = rng.randrange(256)
                case 1:
                    del data[i : i + rng.randint(1, 40)]
                case 2:
                    data[i:i] = rng.choice(
                        [b"\n", b",", b"nan", b"-", b"<", b"\0", b"1e999", "²٣é".encode(), b" "]
                    )
                case 3:
                    del data[i:]
            if not data:
                break
        path.write_bytes(bytes(data))
        try:
            found = read(path)
        except DataError as e:
            refused += 1
            assert name in str(e)
        else:
            if isinstance(found, np.ndarray):
                assert np.isfinite(found).all() and len(found) in (58, 68)
            elif found[1]:
                refused += 1
                assert all(name in s for s in found[1])
    assert refused > 30


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_damaged_pictures_are_refused_and_never_crash(tmp_path, form):
    picture(60, 40).save(tmp_path / "good", form)
    good, rng, path = (tmp_path / "good").read_bytes(), random.Random(1), tmp_path / "x.jpg"
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        path.write_bytes(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read_image(path)
        except DataError as e:
            assert "x.jpg" in str(e)
        else:
            assert found.dtype == torch.uint8 and found.shape[0] == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("gray", [False, True])
def test_modes(tmp_path, mode, gray):
    form = {"CMYK": "JPEG", "YCbCr": "JPEG", "PA": "PNG"}.get(mode, "PNG")
    im = Image.new("RGB", (9, 7), (120, 120, 120)) if mode != "1" else Image.new("RGB", (9, 7), "white")
    im = im.quantize(4) if mode in ("P", "PA") else im.convert(mode)
    im.save(tmp_path / "x.jpg", form, **({"transparency": 255} if mode == "PA" else {}))
    out = read_image(tmp_path / "x.jpg", gray)
    assert out.shape == (1 if gray else 3, 7, 9)
    assert (out.float() - (255 if mode == "1" else 120)).abs().max() <= 4


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation(tmp_path, turn):
    upright = picture(16, 8)
    back = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}[
        turn
    ]  # how a camera held that way stores it
    stored = upright
    for t in back:
        stored = stored.transpose(t)
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(tmp_path / "x.png", exif=exif)
    assert (read_image(tmp_path / "x.png").permute(1, 2, 0).numpy() == np.array(upright)).all()


def test_an_impossible_orientation_counts_as_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    picture().save(tmp_path / "x.png", exif=exif)
    assert (read_image(tmp_path / "x.png").permute(1, 2, 0).numpy() == np.array(picture())).all()


def imm(folder, count=3, **save):
    folder = folder / "imm_face_db"
    folder.mkdir(parents=True)
    for i in range(count):
        picture(64, 48, i).save(folder / f"01-{i + 1}m.jpg", **save)
        (folder / f"01-{i + 1}m.asf").write_text(asf([(0.1 + k / 100, 0.9 - k / 80) for k in range(58)]))
    return folder


def test_order_does_not_depend_on_threads(tmp_path):
    imm(tmp_path, 6)
    one, many = load("imm", tmp_path, workers=1), load("imm", tmp_path, workers=6)
    assert one.names == many.names and torch.equal(one.images, many.images)


def test_two_pictures_of_one_name_are_ambiguous(tmp_path):
    picture().save(imm(tmp_path) / "01-1m.png")
    with pytest.raises(DataError, match="01-1m.asf: found 2 pictures of this name"):
        load("imm", tmp_path)


def test_files_of_other_computers_are_ignored(tmp_path):
    folder = imm(tmp_path)
    for name in ("._01-1m.jpg", "._01-1m.asf", ".DS_Store", "Thumbs.db", "readme.txt"):
        (folder / name).write_text("x")
    assert len(load("imm", tmp_path)) == 3


def test_names_outside_the_scheme_are_refused(tmp_path):
    folder = imm(tmp_path)
    for old, new in [("01-1m", "41-1m"), ("01-2m", "01-7m")]:
        for ending in ("jpg", "asf"):
            (folder / f"{old}.{ending}").rename(folder / f"{new}.{ending}")
    with pytest.raises(DataError, match="2 problems") as e:
        load("imm", tmp_path)
    assert "41-1m.jpg: expected a name such as" in str(e.value) and "01-7m.jpg" in str(e.value)


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    folder = imm(tmp_path)
    for p in folder.glob("*.asf"):
        p.unlink()
    with pytest.raises(DataError, match="3 problems"):
        load("imm", tmp_path, on_error="skip")
    for p in folder.glob("*.jpg"):
        p.unlink()
    with pytest.raises(FileNotFoundError, match="found no samples in"):
        load("imm", tmp_path)


def test_the_warning_points_to_the_caller(tmp_path):
    (imm(tmp_path) / "01-1m.jpg").write_text("broken")
    with pytest.warns(UserWarning, match="imm: 1 left out: .*01-1m.jpg") as caught:
        assert len(load("imm", tmp_path, on_error="skip")) == 2
    assert caught[0].filename == __file__


def test_a_picture_that_breaks_off_is_found_when_decoded(tmp_path):
    path = imm(tmp_path) / "01-2m.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="01-2m.jpg: cannot be read .*truncated"):
        load("imm", tmp_path)
    left_out = []
    with pytest.warns(UserWarning):
        ds = load("imm", tmp_path, on_error="skip", skipped=left_out)
    assert ds.names == ["01-1m.jpg", "01-3m.jpg"] and len(left_out) == 1


@pytest.mark.parametrize(
    "kw",
    [
        dict(size=(24, 32)),
        dict(size=(31, 17)),
        dict(size=40, keep_aspect=True),
        dict(size=(30, 50), crop=0.3),
        dict(size=33, crop=0.0, keep_aspect=True),
    ],
)
def test_points_go_there_and_back(tmp_path, kw):
    imm(tmp_path)
    small, whole = load("imm", tmp_path, **kw), load("imm", tmp_path)
    torch.testing.assert_close(to_original(small), whole.keypoints, atol=1e-3, rtol=0)
    torch.testing.assert_close(to_original(small.resize((90, 70))), whole.keypoints, atol=1e-3, rtol=0)
    if kw.get("keep_aspect"):  # one scale for both axes
        across, down = (
            (small.keypoints[0, 57] - small.keypoints[0, 0])
            / (whole.keypoints[0, 57] - whole.keypoints[0, 0])
        ).tolist()
        assert abs(across - down) < 1e-4


@pytest.mark.parametrize(
    "box, said",
    [((900, 900, 950, 950), "outside the picture"), ((-1e6, -1e6, 1e6, 1e6), "far larger than the picture")],
)
def test_boxes_from_outside_cost_no_memory(tmp_path, box, said):
    (tmp_path / "300w").mkdir()
    picture(64, 48).save(tmp_path / "300w/a.jpg")
    left, top, right, bottom = box
    text = xml().replace(
        "top='1' left='2' width='30' height='40'",
        f"top='{top}' left='{left}' width='{right - left}' height='{bottom - top}'",
    )
    (tmp_path / "300w/faces.xml").write_text(text)
    assert len(load("300w", tmp_path)) == 1
    with pytest.raises(DataError, match=said):
        load("300w", tmp_path, size=32, crop=0.1)


def test_ignored_boxes_are_no_samples(tmp_path):
    (tmp_path / "x.xml").write_text(xml().replace("<box", "<box ignore='1'"))
    assert read_dlib_xml(tmp_path / "x.xml") == ([], [])


@pytest.mark.parametrize(
    "head", ["<!DOCTYPE d>", "<!DOCTYPE d SYSTEM 'file:///etc/passwd'>", "<!DOCTYPE d [<!ENTITY a 'b'>]>"]
)
def test_no_document_types(tmp_path, head):
    (tmp_path / "x.xml").write_text(head + xml())
    with pytest.raises(DataError, match="x.xml, line 1: found a document type declaration"):
        read_dlib_xml(tmp_path / "x.xml")


def test_conventions_in_one_place(tmp_path):
    """A pixel whose column is 4 and whose row is 6, as each format writes it."""
    for name, text, read in [
        ("a.pts", pts([(5, 7)] * 68), lambda p: read_pts(p)[0]),
        ("a.txt", 'c.jpg,"(4, 6)"', lambda p: read_noses(p)[0]["c.jpg"]),
        ("a.xml", xml().replace("x='0' y='0'", "x='4' y='6'"), lambda p: read_dlib_xml(p)[0][0][3][0]),
    ]:
        (tmp_path / name).write_text(text)
        assert tuple(read(tmp_path / name)) == (4.5, 6.5)
    (tmp_path / "a.asf").write_text(asf([(4.5 / 96, 6.5 / 96)] * 58))
    assert np.allclose(read_asf(tmp_path / "a.asf") * 96, (4.5, 6.5))


@pytest.mark.parametrize(
    "names, pairs, middle",
    [(IMM_NAMES, IMM_PAIRS, 4), (IBUG_NAMES, IBUG_PAIRS, 10), (KAGGLE_NAMES, KAGGLE_PAIRS, 3)],
)
def test_pairs(names, pairs, middle):
    flat = [i for p in pairs for i in p]
    assert len(set(flat)) == len(flat) == len(names) - middle


def test_every_source_says_how():
    for name, s in SOURCES.items():
        assert (
            s.pixels
            and "http" in s.obtain + (s.fetch is not None) * "http"
            and s.splits
            and bool(s.keypoint_names) != bool(s.mask_names)
        ), name
    assert {n for n, s in SOURCES.items() if s.fetch} == {"imm", "pet-noses", "pets-trimap", "voc"}


def test_a_jpeg_is_decoded_small_when_a_small_one_is_asked_for(tmp_path, monkeypatch):
    imm(tmp_path, 1)
    picture(640, 480).save(tmp_path / "imm_face_db/01-1m.jpg")
    decoded, draft = [], JpegImagePlugin.JpegImageFile.draft

    def spied(im, *args):
        draft(im, *args)
        decoded.append(im.size)
        return draft(im, *args)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spied)
    load("imm", tmp_path, size=(30, 40))
    load("imm", tmp_path, size=(150, 200))
    assert decoded == [(80, 60), (640, 480)]


# Where a point of the loaded picture lies in the file.

BACK = {
    1: [],
    2: [0],
    3: [3],
    4: [1],
    5: [5],
    6: [2],
    7: [6],
    8: [4],
}  # what a camera does to an upright picture, by EXIF note


def as_stored(im, turn):
    "An upright picture as a camera held that way stores it."
    for t in BACK[turn]:
        im = im.transpose(t)
    return im


def note(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def turned_faces(folder, ending, size=(330, 250)):
    "IMM faces, one for each EXIF note, and their labels in pixels of the upright picture."
    folder = folder / "imm_face_db"
    folder.mkdir(parents=True)
    fractions = [(0.2 + k / 100, 0.85 - k / 90) for k in range(58)]
    for turn in range(1, 9):
        stem = f"{turn:02}-1m"
        as_stored(picture(*size, turn), turn).save(folder / f"{stem}.{ending}", exif=note(turn))
        (folder / f"{stem}.asf").write_text(asf(fractions))
    return torch.tensor(fractions) * torch.tensor(size)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_after_every_way_of_loading_to_original_gives_the_labels_of_the_file(tmp_path, ending):
    labels, rng = turned_faces(tmp_path, ending), random.Random(0)
    for _ in range(8):
        kw = {
            "size": (rng.randint(9, 300), rng.randint(9, 300)),
            "keep_aspect": rng.random() < 0.5,
            "crop": rng.choice([None, 0.0, 0.3, rng.uniform(-0.2, 2)]),
        }
        ds = load("imm", tmp_path, **kw)
        assert ds.meta["original_size"].tolist() == [[250, 330]] * 8
        for each in (ds, ds.resize((37, 91))):
            assert (to_original(each, each.keypoints) - labels).abs().max() < 0.01, kw


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(
    "kw", [{"size": (100, 150)}, {"size": 90, "keep_aspect": True}, {"size": (80, 60), "crop": 0.4}]
)
def test_the_picture_moves_as_its_points_do_whatever_its_exif_note_says(tmp_path, turn, kw):
    ys, xs = np.mgrid[:500, :720] + 0.5
    spots = [(200.0, 150.0), (530.0, 380.0)]
    light = sum(np.clip(30 - np.hypot(xs - x, ys - y), 0, 1) for x, y in spots)
    (tmp_path / "imm_face_db").mkdir()
    stored = as_stored(Image.fromarray((light * 255).astype(np.uint8)), turn)
    stored.save(tmp_path / "imm_face_db/01-1m.jpg", exif=note(turn), quality=95)
    points = np.array([spots[i % 2] for i in range(58)]) / (720, 500)
    (tmp_path / "imm_face_db/01-1m.asf").write_text(asf(points.tolist()))
    ds = load("imm", tmp_path, gray=True, **kw)
    ys, xs = np.mgrid[: ds.size[0], : ds.size[1]] + 0.5
    for x, y in ds.keypoints[0, :2].tolist():
        near = ds.images[0, 0].numpy() * (
            np.hypot(xs - x, ys - y) < 18
        )  # kw shrinks a disc of 30 pixels to 13 at most
        found = (near * xs).sum() / near.sum(), (near * ys).sum() / near.sum()
        assert np.hypot(found[0] - x, found[1] - y) < 0.3


# Masks and labels of pictures with an EXIF note.


def trimaps(folder, turn, mask_turn, mask_note=None, size=(20, 12)):
    "A picture whose grey is 80 times its label, stored as a camera held that way does; the upright labels."
    for name in ("images", "annotations/trimaps"):
        (folder / "oxford-iiit-pet" / name).mkdir(parents=True)
    labels = np.random.default_rng(turn).integers(1, 4, size[::-1], dtype=np.uint8)
    as_stored(Image.fromarray(labels * 80), turn).save(
        folder / "oxford-iiit-pet/images/pug_1.png", exif=note(turn)
    )
    exif = {"exif": note(mask_note)} if mask_note else {}
    as_stored(Image.fromarray(labels), mask_turn).save(
        folder / "oxford-iiit-pet/annotations/trimaps/pug_1.png", **exif
    )
    return torch.from_numpy(labels)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("size", [(20, 12), (16, 16)])
def test_a_mask_is_turned_with_its_picture(tmp_path, turn, size):
    labels = trimaps(tmp_path, turn, turn, size=size)
    ds = load("pets-trimap", tmp_path)
    assert torch.equal(ds.masks[0], labels) and torch.equal(ds.images[0, 0], labels * 80)


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_a_mask_of_the_upright_size_is_upright_already(tmp_path, turn):
    labels = trimaps(tmp_path, turn, 1)
    assert torch.equal(load("pets-trimap", tmp_path).masks[0], labels)


@pytest.mark.parametrize("turn, own", [(1, 6), (6, 6), (3, 8), (8, 3)])
def test_a_mask_with_a_note_of_its_own_is_turned_by_that(tmp_path, turn, own):
    labels = trimaps(tmp_path, turn, own, own)
    assert torch.equal(load("pets-trimap", tmp_path).masks[0], labels)


def dlib_face(folder, turn, size="stored", mark=(13, 5)):
    """A dlib XML whose parts lie on one white pixel of a turned picture, its box around it.

    Gives (x, y) when upright."""
    (folder / "300w").mkdir()
    upright = Image.new("L", (40, 24))
    upright.putpixel(mark, 255)
    stored = as_stored(upright, turn)
    stored.save(folder / "300w/a.png", exif=note(turn))
    row, column = np.argwhere(np.array(upright if size == "upright" else stored)).tolist()[0]
    told = {"stored": stored.size, "upright": upright.size, "none": None, "wrong": (41, 24)}[size]
    told = "" if told is None else f"width='{told[0]}' height='{told[1]}'"
    parts = "".join(f"<part name='{k:02}' x='{column}' y='{row}'/>" for k in range(68))
    box = f"<box top='{row - 2}' left='{column - 1}' width='3' height='5'>{parts}</box>"
    (folder / "300w/faces.xml").write_text(
        f"<dataset><images><image file='a.png' {told}>{box}</image></images></dataset>"
    )
    return mark[0] + 0.5, mark[1] + 0.5


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("size", ["stored", "none"])
def test_dlib_labels_are_turned_with_their_picture_since_dlib_does_not_look_at_exif(tmp_path, turn, size):
    x, y = dlib_face(tmp_path, turn, size)
    ds = load("300w", tmp_path)
    assert ds.keypoints[0].unique(dim=0).tolist() == [[x, y]] and ds.visible.all()
    assert ds.images[0, 0, int(y), int(x)] == 255
    left, top, right, bottom = ds.meta["box"][0]
    assert sorted([right - left, bottom - top]) == [3, 5] and (left + right, top + bottom) == (2 * x, 2 * y)


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_dlib_labels_stay_where_the_files_own_size_is_that_of_the_upright_picture(tmp_path, turn):
    x, y = dlib_face(tmp_path, turn, "upright")
    assert load("300w", tmp_path).keypoints[0].unique(dim=0).tolist() == [[x, y]]


@pytest.mark.parametrize("turn", [1, 6])
def test_dlib_labels_of_another_size_are_refused(tmp_path, turn):
    dlib_face(tmp_path, turn, "wrong")
    with pytest.raises(DataError, match="a.png: labelled at 41×24 pixels, but the file has (40×24|24×40)"):
        load("300w", tmp_path)


# What is refused, and what says so.


def parts(numbers):
    return "".join(f"<part name='{k:02}' x='{k}' y='{2 * k}'/>" for k in numbers)


def sheet(*boxes, file="file='a.jpg'"):
    "An XML file with these boxes, each of (attributes, numbers of parts)."
    inner = "".join(f"<box {a}>{parts(numbers)}</box>\n" for a, numbers in boxes)
    return f"<dataset><images><image {file}>\n{inner}</image></images></dataset>"


BOX, OTHER_BOX, THIRD_BOX = (f"top='1' left='{x}' width='30' height='40'" for x in (2, 3, 4))


@pytest.mark.parametrize("n", [1, 5, 19, 29, 49, 51, 67])
def test_other_numbers_of_points_are_refused_with_the_file_and_the_count(tmp_path, n):
    (tmp_path / "x.xml").write_text(sheet((BOX, range(n)), (OTHER_BOX, range(n))))
    with pytest.raises(
        DataError,
        match=f"x.xml: found {n} points in 2 faces, 00 to {n - 1:02}; expected the 68 points 00 to 67",
    ):
        read_dlib_xml(tmp_path / "x.xml")
    (tmp_path / "x.pts").write_text(pts([(5, 6)] * n))
    with pytest.raises(DataError, match=f"x.pts, line 3: found {n} points"):
        read_pts(tmp_path / "x.pts")
    (tmp_path / "x.asf").write_text(asf([(0.5, 0.5)] * n))
    with pytest.raises(DataError, match=f"x.asf, line 2: announces 58 points and has {n}"):
        read_asf(tmp_path / "x.asf")


def test_one_face_of_another_layout_among_good_ones_is_left_out(tmp_path):
    (tmp_path / "x.xml").write_text(
        sheet((BOX, range(68)), (OTHER_BOX, range(29)), (THIRD_BOX, [k for k in range(68) if k != 9]))
    )
    faces, wrong = read_dlib_xml(tmp_path / "x.xml")
    assert len(faces) == 2 and np.isnan(faces[1][3]).all(1).nonzero()[0].tolist() == [9]
    assert len(wrong) == 1 and "line 3: found 29 points, 00 to 28" in wrong[0]


def test_a_face_with_a_wrong_point_is_left_out_as_a_whole(tmp_path):
    (tmp_path / "x.xml").write_text(sheet((BOX, range(68)), (OTHER_BOX, [*range(68), 3])))
    faces, wrong = read_dlib_xml(tmp_path / "x.xml")
    assert len(faces) == 1 and len(wrong) == 1 and "found part '03'" in wrong[0]


def test_a_second_image_without_a_file_does_not_get_the_first_ones_name(tmp_path):
    two = sheet((BOX, range(68))).replace(
        "</image>",
        f"</image><box {THIRD_BOX}>{parts(range(68))}</box>"
        f"<image><box {OTHER_BOX}>{parts(range(68))}</box></image>",
    )
    (tmp_path / "300w").mkdir()
    (tmp_path / "300w/faces.xml").write_text(two)
    picture(64, 48).save(tmp_path / "300w/a.jpg")
    skipped = []
    with pytest.warns(UserWarning, match="300w: 3 left out"):
        ds = load("300w", tmp_path, on_error="skip", skipped=skipped)
    assert ds.names == ["a.jpg"] and ds.meta["box"] == [(2.0, 1.0, 32.0, 41.0)]
    assert "found <image> without 'file'" in skipped[1]
    assert all("a box without a file" in skipped[i] for i in (0, 2))


@pytest.mark.parametrize(
    "text, said",
    [
        (sheet((BOX.replace("'30'", "'-30'"), range(68))), "found a box of size -30×40"),
        (
            sheet((BOX, range(68)), file="file='a.jpg' width='-5' height='9'"),
            "found a picture of -5×9 pixels",
        ),
        (sheet((BOX, range(68)), file="file='a.jpg' width='5'"), "found <image> without 'height'"),
        (sheet((BOX, range(68)), (BOX, range(68))), "of a.jpg again, as in"),
        (
            sheet((BOX, range(68))).replace(
                "</images>", f"<image file='./a.jpg'><box {BOX}>{parts(range(68))}</box></image></images>"
            ),
            "of a.jpg again",
        ),
        (sheet((BOX + " ignore='perhaps'", range(68))), "found ignore='perhaps'"),
        (
            sheet((BOX, range(68))).replace("<box", "<image><box").replace("</box>", "</box></image>"),
            "found <image> without 'file'",
        ),
        (
            sheet((BOX, range(68))).replace("<part name='00'", f"<box {OTHER_BOX}/><part name='00'"),
            "found a box within a box",
        ),
        (sheet((BOX, range(68))).replace("y='6'", "y='inf'"), "found '3 inf'; expected finite numbers"),
        (sheet((BOX, range(68))).replace("y='6'", "y='1e300'"), "expected numbers up to"),
        (sheet((BOX, range(68))).replace("y='6'", "y='1_0'"), "found '3 1_0'; expected numbers"),
    ],
)
def test_odd_faces_are_said(tmp_path, text, said):
    (tmp_path / "x.xml").write_text(text)
    faces, wrong = read_dlib_xml(tmp_path / "x.xml")
    assert said in " ".join(wrong) and len(faces) == (1 if "again" in said else 0)


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


@pytest.mark.parametrize(
    "data",
    [
        png(2, 2, 16, 0, bytes(10)),
        png(2, 2, 16, 2, bytes(26)),
        png(2, 2, 16, 4, bytes(18)),
        png(2, 2, 16, 6, bytes(34)),
        b"P6 2 2 65535\n" + bytes(24),
        b"P6 2 2 300\n" + bytes(24),
        b"P5 2 2 300\n" + bytes(8),
        b"P3 1 1 300\n1 2 299",
    ],
    ids=["grey", "colour", "grey and alpha", "colour and alpha", "PPM", "PPM of 300", "PGM", "plain PPM"],
)
def test_more_than_8_bits_are_refused_in_grey_and_in_colour(tmp_path, data):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(DataError, match="x.png: found (PNG|PPM) with more than 8 bits in a channel"):
        read_image(tmp_path / "x.png")


def test_a_mask_as_jpeg_is_refused(tmp_path):
    trimaps(tmp_path, 1, 1)
    path = tmp_path / "oxford-iiit-pet/annotations/trimaps/pug_1.png"
    Image.new("L", (20, 12), 2).save(path, "JPEG")
    with pytest.raises(DataError, match="pug_1.png: found a mask as JPEG, whose compression changes labels"):
        load("pets-trimap", tmp_path)


def test_masks_of_few_bits_keep_their_labels(tmp_path):
    trimaps(tmp_path, 1, 1, size=(4, 2))
    path = tmp_path / "oxford-iiit-pet/annotations/trimaps/pug_1.png"
    for bits, row in ((2, b"\x00\x6d"), (4, b"\x00\x12\x31"), (8, b"\x00\x01\x02\x03\x01")):
        path.write_bytes(png(4, 2, bits, 0, row * 2))
        assert load("pets-trimap", tmp_path).masks[0].tolist() == [[1, 2, 3, 1]] * 2
    path.write_bytes(b"P5 4 2 3\n" + bytes([1, 2, 3, 3] * 2))
    with pytest.raises(DataError, match="found a PPM with values other than 0 to 255"):
        load("pets-trimap", tmp_path)


def test_a_small_file_with_very_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "imm_face_db").mkdir()
    path = tmp_path / "imm_face_db/01-1m.png"
    path.write_bytes(png(13000, 13000, 1, 0, bytes(1626 * 13000)))
    (tmp_path / "imm_face_db/01-1m.asf").write_text(asf())
    assert path.stat().st_size < 100_000
    for read in (lambda: read_image(path), lambda: load("imm", tmp_path, size=32)):
        with pytest.raises(
            DataError,
            match="01-1m.png: found a picture of 13000×13000 = 169000000 pixels; expected at most 100000000",
        ):
            read()


def test_the_limit_of_pixels_can_be_raised_and_lowered(tmp_path):
    picture(20, 12).save(imm(tmp_path, 1) / "01-1m.jpg")
    assert (
        load("imm", tmp_path, max_pixels=240).size
        == read_image(tmp_path / "imm_face_db/01-1m.jpg", max_pixels=240).shape[1:]
        == (12, 20)
    )
    for read in (
        lambda: read_image(tmp_path / "imm_face_db/01-1m.jpg", max_pixels=239),
        lambda: load("imm", tmp_path, max_pixels=239),
    ):
        with pytest.raises(
            DataError, match="01-1m.jpg: found a picture of 20×12 = 240 pixels; expected at most 239"
        ):
            read()
    (tmp_path / "cut.png").write_bytes(png(19000, 19000, 1, 0, b""))  # more than Pillow itself allows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="cut.png: cannot be read .*truncated"):
            read_image(tmp_path / "cut.png", max_pixels=10**9)


@pytest.mark.parametrize("spot", [(-1, -1), (0, 0), (-1000, 3), (1e6, 1e6), (60, 999)])
def test_a_place_outside_the_files_picture_is_never_visible_and_never_widens_a_crop(tmp_path, spot):
    def faces(name, hidden):
        (tmp_path / name / "lfpw").mkdir(parents=True)
        picture(64, 48).save(tmp_path / name / "lfpw/a.png")
        places = [(20 + k / 4, 30 - k / 5) for k in range(68)]
        for k in (3, 40):
            places[k] = hidden
        (tmp_path / name / "lfpw/a.pts").write_text(pts(places))
        return load("lfpw", tmp_path / name, size=32, crop=0.5)

    one, two = faces("one", spot), faces("two", (-77, 4e5))
    assert torch.equal(one.images, two.images) and torch.equal(one.to_file, two.to_file)
    assert one.visible[0].logical_not().nonzero().flatten().tolist() == [3, 40]
    assert torch.equal(one.keypoints[one.visible], two.keypoints[two.visible])


def test_a_point_beyond_the_edge_stays_hidden_when_a_crop_reaches_there(tmp_path):
    (tmp_path / "300w").mkdir()
    picture(64, 48).save(tmp_path / "300w/a.jpg")
    (tmp_path / "300w/faces.xml").write_text(xml())  # its points go down to row 134
    ds = load("300w", tmp_path, size=50, crop=3.0)
    inside = torch.arange(68) * 2 < 48
    assert ds.visible[0].tolist() == inside.tolist()
    assert describe(ds).loc["data", ["visible", "outside", "hidden"]].tolist() == [24, 44, 0]


# Whatever is left out is said.


def left_out(name, root, **kw):
    "The lines in `skipped`, which a warning announces."
    skipped = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = load(name, root, skipped=skipped, **kw)
    said = " ".join(str(w.message) for w in caught if w.category is UserWarning)
    assert bool(said) == bool(skipped) and (not said or skipped[0] in said)
    return ds, skipped


@pytest.mark.parametrize("split", [None, "train", "test"])
def test_pets_without_a_label_are_said(tmp_path, split):
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    for i in range(4):
        picture(seed=i).save(folder / f"images/pug_{i}.jpg")
    (folder / "train_noses.3.txt").write_text('pug_1.jpg,"(3, 4)"\n')
    (folder / "test_noses.txt").write_text('pug_2.jpg,"(3, 4)"\n')
    ds, skipped = left_out("pet-noses", tmp_path, split=split)
    assert len(ds) == (2 if split is None else 1)
    assert [s.split(":")[0][-9:] for s in skipped] == [
        "pug_0.jpg",
        "pug_3.jpg",
    ] and "without a label" in skipped[0]


def test_ignored_boxes_unread_files_and_pictures_without_a_face_are_said(tmp_path):
    folder = tmp_path / "300w"
    folder.mkdir()
    for name in "abc":
        picture(64, 48).save(folder / f"{name}.jpg")
    (folder / "train.xml").write_text(sheet((BOX, range(68)), (OTHER_BOX + " ignore='1'", range(68))))
    (folder / "all.xml").write_text(xml())
    (folder / "b.pts").write_text(pts())
    ds, skipped = left_out("300w", tmp_path)
    assert ds.names == ["a.jpg"] and len(skipped) == 5
    for piece in (
        "a box of a.jpg that is marked ignore",
        "all.xml: not read",
        "b.jpg: a picture that no XML",
        "c.jpg: a picture that no XML",
        "b.pts: not read",
    ):
        assert any(piece in s for s in skipped), piece


def test_pictures_in_no_folder_of_a_part_are_said(tmp_path):
    for name in ("trainset", "mine"):
        (tmp_path / "lfpw" / name).mkdir(parents=True)
        picture(64, 48).save(tmp_path / f"lfpw/{name}/a.png")
        (tmp_path / f"lfpw/{name}/a.pts").write_text(pts())
    ds, skipped = left_out("lfpw", tmp_path, split="train")
    assert ds.names == ["trainset/a.png"] and len(skipped) == 1 and "in no folder of a part" in skipped[0]
    assert left_out("lfpw", tmp_path)[1] == []


def voc(folder, train, val):
    root = folder / "VOCdevkit/VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for stem in "abc":
        picture(seed=1).save(root / f"JPEGImages/{stem}.jpg")
        Image.new("L", (20, 12), 3).save(root / f"SegmentationClass/{stem}.png")
    (root / "ImageSets/Segmentation/train.txt").write_text(train)
    (root / "ImageSets/Segmentation/val.txt").write_text(val)


def test_masks_that_no_list_names_are_said(tmp_path):
    voc(tmp_path, "a\n", "b\n")
    ds, skipped = left_out("voc", tmp_path)
    assert (
        ds.names == ["a.jpg", "b.jpg"]
        and len(skipped) == 1
        and "c.png: a mask that no list names" in skipped[0]
    )


def test_a_sample_in_two_places_of_the_lists_is_refused(tmp_path):
    voc(tmp_path, "a\nb\na\n", "b\nc\n")
    with pytest.raises(DataError, match="2 problems") as e:
        load("voc", tmp_path)
    assert "train.txt, line 3: found a again" in str(e.value) and "val.txt, line 1: found b again" in str(
        e.value
    )
    assert left_out("voc", tmp_path, on_error="skip")[0].names == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_pet_twice_is_refused_however_its_name_is_written(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    picture().save(folder / "images/pug_1.jpg")
    (folder / "train_noses.3.txt").write_text('./pug_1.jpg,"(3, 4)"\npug_1.jpg,"(5, 4)"\n')
    (folder / "test_noses.txt").write_text('pug_1.jpg,"(3, 4)"\n')
    with pytest.raises(DataError, match="2 problems") as e:
        load("pet-noses", tmp_path)
    assert "train_noses.3.txt, line 2: found pug_1.jpg again" in str(e.value)
    assert "test_noses.txt: found pug_1.jpg, which is in train_noses.3.txt too" in str(e.value)
    assert left_out("pet-noses", tmp_path, on_error="skip")[0].names == ["pug_1.jpg"]


@pytest.mark.parametrize("factor", [1, 0.5])
def test_whole_numbers_lose_nothing(tmp_path, factor):
    (tmp_path / "lfpw").mkdir()
    picture(64, 48).save(tmp_path / "lfpw/a.png")
    (tmp_path / "lfpw/a.pts").write_text(pts([(5 + k % 50, 7) for k in range(68)]))
    ds = load("lfpw", tmp_path, size=(int(48 * factor), int(64 * factor)))
    expected = torch.tensor([(4.5 + k % 50, 6.5) for k in range(68)]) * factor
    assert torch.equal(ds.keypoints[0], expected)


def test_a_column_twice_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text(kaggle().replace("left_eye_center_y", "left_eye_center_x", 1))
    with pytest.raises(DataError, match="without left_eye_center_y"):
        read_kaggle(tmp_path / "x.csv", KAGGLE_NAMES)
    head, *rows = kaggle().splitlines()
    (tmp_path / "x.csv").write_text("\n".join([head + ",nose_tip_x", *(row + ",3" for row in rows)]))
    with pytest.raises(DataError, match="x.csv, line 1: found nose_tip_x twice"):
        read_kaggle(tmp_path / "x.csv", KAGGLE_NAMES)


def test_a_file_of_points_with_a_second_face_is_refused(tmp_path):
    (tmp_path / "x.pts").write_text(pts() + "99 99\n")
    with pytest.raises(DataError, match="x.pts, line 73: found '99 99' after the closing brace"):
        read_pts(tmp_path / "x.pts")
    (tmp_path / "x.pts").write_text(pts() + pts())
    with pytest.raises(DataError, match="or several such lists"):
        read_pts(tmp_path / "x.pts")


@pytest.mark.parametrize("size", [-5, 0, True, (3, -1), (2.0, 3), (3,), (1, 2, 3)])
def test_sizes_that_are_none(tmp_path, size):
    imm(tmp_path, 1)
    with pytest.raises(ValueError, match="size is .*; expected"):
        load("imm", tmp_path, size=size)
    assert load("imm", tmp_path, size=np.int64(9)).size == (9, 9)


# Files from strangers: entries or a DataError, nothing else.


def objects():
    return (
        '{"images": [{"id": 1, "file_name": "a.jpg", "width": 64}], '
        '"annotations": [{"keypoints": [1.5, 2, 2], "ok": true, "box": null}]}'
    )


def jpeg(folder):
    picture(60, 40).save(folder / "picture", "JPEG")
    return (folder / "picture").read_bytes()


STRANGERS = {
    "read_json": ("x.json", lambda p: objects().encode(), read_json),
    "read_table": ("x.csv", lambda p: b'a,b\n1,"2\n3"\n', lambda p: list(read_table(p))),
    "read_xml": ("x.xml", lambda p: xml().encode(), lambda p: list(read_xml(p))),
    "read_asf": ("x.asf", lambda p: asf().encode(), read_asf),
    "read_pts": ("x.pts", lambda p: pts().encode(), read_pts),
    "read_noses": ("x.txt", lambda p: noses().encode(), read_noses),
    "read_dlib_xml": ("x.xml", lambda p: xml().encode(), read_dlib_xml),
    "read_image": ("x.jpg", jpeg, read_image),
    "read_kaggle": ("x.csv", lambda p: kaggle().encode(), lambda p: read_kaggle(p, KAGGLE_NAMES)),
}


def test_every_public_reader_meets_strangers_below():
    public = {
        name for name, f in vars(datasets).items() if name.startswith("read_") and inspect.isfunction(f)
    }
    assert public == set(STRANGERS)


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


@pytest.mark.parametrize("name", STRANGERS)
def test_only_data_errors_come_out_whatever_a_file_holds(tmp_path, name):
    file, make, read = STRANGERS[name]
    rng, path, good = random.Random(name), tmp_path / file, make(tmp_path)
    hostile = [
        b"",
        b"\0" * 9,
        b"\xff" * 50,
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"9" * 400,
        b'{"id": ' + b"9" * 400 + b"}",
        rb'["\ud800"]',
        b'["\0"]',
        b"<a>" * 5000,
        b"x" * 200_000,
        b'"' + b"x" * 200_000 + b'"',
        b"<?xml version='1.0' encoding='rot13'?><a/>",
        b"<?xml version='1.0' encoding='idna'?><a/>",
        b"<?xml version='1.0' encoding='unicode_escape'?><a/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"<a>&b;</a>",
        b"9" * 5000 + b"\n",
        good,
    ]
    random_bytes = [rng.randbytes(rng.randrange(1, 400)) for _ in range(40)]
    for data in [*hostile, *random_bytes, *(mutated(good, rng) for _ in range(60))]:
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except DataError as e:
            assert file in str(e) and str(e).encode()


def labels_of(folder, name):
    "A small data set of this name, and the path of its labels."
    if name == "imm":
        return imm(folder, 2) / "01-1m.asf"
    if name == "voc":
        voc(folder, "a\nb\n", "c\n")
        return folder / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    file, text = {
        "lfpw": ("lfpw/a.pts", pts()),
        "300w": ("300w/a.xml", sheet((BOX, range(68)), (OTHER_BOX, range(68)))),
        "pet-noses": ("oxford-iiit-pet/train_noses.3.txt", noses(9)),
        "kaggle-faces": ("kaggle-faces/training.csv", kaggle()),
    }[name]
    (folder / file).parent.mkdir()
    (folder / file).write_text(text)
    picture(64, 48).save(folder / file.split("/")[0] / "a.jpg", exif=note(6))
    (folder / "oxford-iiit-pet/images").mkdir(parents=True, exist_ok=True)
    for i in range(9):
        picture(seed=i).save(folder / f"oxford-iiit-pet/images/cat_{i}.jpg")
    return folder / file


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["imm", "lfpw", "300w", "pet-noses", "kaggle-faces", "voc"])
def test_loading_damaged_labels_gives_a_data_set_or_a_data_error(tmp_path, name):
    path, rng = labels_of(tmp_path, name), random.Random(name)
    good = path.read_bytes()
    assert len(load(name, tmp_path, size=20)) > 0
    for _ in range(25):
        path.write_bytes(mutated(good, rng))
        try:
            load(
                name,
                tmp_path,
                size=20,
                crop=rng.choice([None, 0.2, 3]),
                on_error=rng.choice(["skip", "raise"]),
            )
        except (DataError, FileNotFoundError) as e:  # the latter where no sample is left
            assert str(e).encode()


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".jpg", "a/" * 600 + "b.jpg", "../a.jpg", "/a.jpg", "c:a.jpg", ".", "a\0b.jpg"]
)
def test_names_that_no_file_of_the_folder_has(tmp_path, name):
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    picture().save(folder / "images/pug_1.jpg")
    (folder / "train_noses.3.txt").write_text(f'pug_1.jpg,"(3, 4)"\n{name},"(3, 4)"\n')
    with pytest.raises(DataError, match="found the file name .*; expected one inside"):
        load("pet-noses", tmp_path)


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_file_is_a_data_error_too(tmp_path, name):
    file, _, read = STRANGERS[name]
    with pytest.raises(DataError, match=f"{file}: there is no such file"):
        read(tmp_path / file)
    (tmp_path / "folder" / file).mkdir(parents=True)
    with pytest.raises(DataError, match=f"{file}: .*a folder"):
        read(tmp_path / "folder" / file)
    with pytest.raises(DataError):
        read(str(tmp_path / "a\0b"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / file)
        with pytest.raises(DataError, match=f"{file}: .*a device"):
            read(tmp_path / file)


@pytest.mark.parametrize(
    "text, said",
    [
        ("[" * 200_000, "levels of brackets"),
        ("[" * 150 + "]" * 150, "levels of brackets"),
        ('{"id": ' + "9" * 400 + "}", "a whole number of 400 digits"),
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "the key 'c' twice"),
        (
            r'{"images": [{"file_name": "\ud800.jpg"}]}',
            r"entry images[0].file_name: found the text '\\ud800.jpg'",
        ),
        (r'{"a\u0000": 1}', "a key in entry (all)"),
        ('{"a": 1', "line 1 column 8"),
        (b"\xff\xfe{}", "expected JSON in UTF-8"),
        ("", "expected JSON in UTF-8"),
    ],
    ids=["deep", "too deep", "giant", "twice", "half a character", "NUL", "cut", "UTF-16", "empty"],
)
def test_json_that_is_refused(tmp_path, text, said):
    (tmp_path / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as e:
        read_json(tmp_path / "x.json")
    assert "x.json" in str(e.value) and said in str(e.value)


def test_json_tables_and_xml_that_are_read(tmp_path):
    (tmp_path / "x.json").write_bytes(
        b"\xef\xbb\xbf"
        + r'{"é": [1, 2.5, null, true, "\ud83d\ude00", {}], "id": 9223372036854775807}'.encode()
    )
    assert read_json(tmp_path / "x.json") == {"é": [1, 2.5, None, True, "\U0001f600", {}], "id": 2**63 - 1}
    (tmp_path / "x.csv").write_bytes('\ufeffa,"b, ""c"""\r\n\r\n"two\nlines",é\r\n'.encode())
    assert list(read_table(tmp_path / "x.csv")) == [(1, ["a", 'b, "c"']), (4, ["two\nlines", "é"])]
    (tmp_path / "x.xml").write_bytes(
        "<?xml version='1.0' encoding='ISO-8859-1'?>\n<a><b n='é'/>\n x &lt; y </a>".encode("latin-1")
    )
    assert list(read_xml(tmp_path / "x.xml")) == [
        (2, "start", "a", {}),
        (2, "start", "b", {"n": "é"}),
        (2, "end", "b", ""),
        (3, "end", "a", "x < y"),
    ]


def test_a_table_says_on_which_line_it_is_broken(tmp_path):
    for text, said in [
        (b"a,b\n1," + b"x" * 140_000, "line 2 or after: this is no table (field larger"),
        (b'a\n"b', "this is no table"),
        (b"a\nb\n\xff\n", "this is no table ('utf-8' codec"),
        (b"a\nb\0\n", "line 2: found the text"),
    ]:
        (tmp_path / "x.csv").write_bytes(text)
        with pytest.raises(DataError) as e:
            list(read_table(tmp_path / "x.csv"))
        assert "x.csv, line" in str(e.value) and said in str(e.value)


@pytest.mark.parametrize(
    "name, file",
    [
        ("kaggle-faces", "kaggle-faces/training.csv"),
        ("pet-noses", "oxford-iiit-pet/train_noses.3.txt"),
        ("300w", "300w/train.xml"),
        ("voc", "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"),
        ("imm", "imm_face_db/01-1m.jpg"),
    ],
)
def test_a_folder_in_the_place_of_a_file_is_said(tmp_path, name, file):
    (tmp_path / file).mkdir(parents=True)
    (tmp_path / "imm_face_db").mkdir(exist_ok=True)
    (tmp_path / "imm_face_db/01-1m.asf").write_text(asf())
    with pytest.raises(DataError, match="found a folder or a device|a label without a picture"):
        load(name, tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_name_that_is_no_unicode_is_refused_and_can_be_printed(tmp_path):
    folder = imm(tmp_path, 2)
    for ending in ("jpg", "asf"):
        try:
            os.rename(
                folder / f"01-1m.{ending}", os.path.join(os.fsencode(folder), b"01-1m\xff." + ending.encode())
            )
        except OSError:
            pytest.skip("this file system has no such names")
    with pytest.raises(DataError) as e:
        load("imm", tmp_path)
    assert b"01-1m" in str(e.value).encode()
    (tmp_path / "lfpw").mkdir()
    picture(64, 48).save(os.path.join(os.fsencode(tmp_path), b"lfpw/\xff.png"))
    with open(os.path.join(os.fsencode(tmp_path), b"lfpw/\xff.pts"), "w") as f:
        f.write(pts())
    with pytest.raises(DataError, match="whose name is no Unicode") as e:
        load("lfpw", tmp_path)
    assert str(e.value).encode()


# Memory.


def high_water():
    "Bytes: what this process holds now, and the most it has held since the last call."
    with open("/proc/self/status") as f:
        held = {
            line.split(":")[0]: int(line.split()[1]) * 1024
            for line in f
            if line.startswith(("VmRSS", "VmHWM"))
        }
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")
    return held["VmRSS"], held["VmHWM"]


def test_loading_needs_little_more_memory_than_its_result(tmp_path):
    try:
        high_water()
    except OSError:
        pytest.skip("this system does not tell")
    imm(tmp_path, 1)
    for k in range(2, 41):
        for ending in ("jpg", "asf"):
            os.link(tmp_path / f"imm_face_db/01-1m.{ending}", tmp_path / f"imm_face_db/{k:02}-1m.{ending}")
    load("imm", tmp_path, size=60, workers=1)
    before, _ = high_water()
    ds = load("imm", tmp_path, size=900, workers=1)
    _, most = high_water()
    assert len(ds) == 40 and most - before < 1.4 * ds.images.numel()


# 2³⁰ columns: Pillow refuses such a picture at once,
# so that a program without the check does not fill the memory.
def test_a_data_set_that_does_not_fit_says_how_much_it_needs(tmp_path):
    imm(tmp_path, 2)
    said = "imm: 2 pictures of 3×1048576×1073741824 need 6291456.0 GiB of memory.*size="
    with pytest.raises(MemoryError, match=said):
        load("imm", tmp_path, size=(2**20, 2**30))


def test_memory_that_the_machine_does_not_have_is_not_asked_for(tmp_path, monkeypatch):
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        pytest.skip("this system does not tell how much it has")
    imm(tmp_path, 2)
    monkeypatch.setattr(torch, "empty", lambda *args, **kw: pytest.fail("asked for it"))
    with pytest.raises(MemoryError, match="need 6291456.0 GiB"):
        load("imm", tmp_path, size=(2**20, 2**30))


def test_what_is_skipped_leaves_no_gap(tmp_path):
    folder = imm(tmp_path, 5)
    whole = load("imm", tmp_path)
    for stem in ("01-1m", "01-4m"):
        data = (folder / f"{stem}.jpg").read_bytes()
        (folder / f"{stem}.jpg").write_bytes(data[:-400])
    rest, skipped = left_out("imm", tmp_path, on_error="skip")
    assert len(skipped) == 2 and rest.names == [whole.names[i] for i in (1, 2, 4)]
    for field in ("images", "keypoints", "visible", "to_file"):
        assert torch.equal(getattr(rest, field), getattr(whole, field)[[1, 2, 4]])


# Downloads.


def test_load_downloads_only_what_is_missing(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "fetch_all", lambda files: asked.extend(files))
    (tmp_path / "imm_face_db").mkdir()
    (tmp_path / "imm_face_db/01-1m.jpg").write_bytes(b"my own version")
    with pytest.raises(DataError, match="01-1m"):
        load("imm", tmp_path, download=True)  # nothing came, and my file is no picture
    assert len(asked) == 479 and (tmp_path / "imm_face_db/01-1m.jpg").read_bytes() == b"my own version"
    url, path, size, sha = asked[0]
    assert (
        url.startswith("https://raw.githubusercontent.com/")
        and path.parent == tmp_path / "imm_face_db"
        and path.name == url.rsplit("/", 1)[1]
    )
    assert (path.name, size, sha) in imm_manifest()


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    def never(*args, **kw):
        raise AssertionError("a download")

    monkeypatch.setattr(socket, "create_connection", never)
    for source in datasets.SOURCES.values():
        monkeypatch.setattr(source, "fetch", never)
    for name in datasets.SOURCES:
        with pytest.raises(FileNotFoundError):
            load(name, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", [n for n, s in datasets.SOURCES.items() if s.fetch is None])
def test_what_may_not_be_downloaded(tmp_path, name):
    with pytest.raises(PermissionError, match="is not downloaded by kpnb") as e:
        load(name, tmp_path, download=True)
    assert "http" in str(e.value) and str(tmp_path) in str(e.value)


def fake_pets(to, download, half=False):
    """What torchvision does: folder by folder, so that a killed process leaves a half."""
    home = Path(to) / "oxford-iiit-pet"
    if (home / "images").is_dir() and (home / "annotations").is_dir():
        return  # all that torchvision looks at
    for part in ("images", "annotations"):
        (home / part).mkdir(parents=True, exist_ok=True)
    for part in ("images", "annotations"):
        (home / f"{part}.tar.gz").write_bytes(b"archive")
        (home / part / "1").write_bytes(b"1")
        if half:
            raise KeyboardInterrupt
        (home / part / "2").write_bytes(b"2")


def test_pets_that_were_half_unpacked_are_not_taken_for_whole(tmp_path, monkeypatch):
    get, home = datasets.SOURCES["pets-trimap"].fetch, tmp_path / "oxford-iiit-pet"
    monkeypatch.setattr(
        "torchvision.datasets.OxfordIIITPet", lambda to, download: fake_pets(to, download, half=True)
    )
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            get(tmp_path)
        assert not home.exists()
    (home / "annotations").mkdir(parents=True)
    (home / "annotations/mine").write_bytes(b"mine")
    monkeypatch.setattr("torchvision.datasets.OxfordIIITPet", fake_pets)
    get(tmp_path)
    assert both(home) == {
        "images": None,
        "images/1": b"1",
        "images/2": b"2",
        "annotations": None,
        "annotations/mine": b"mine",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["oxford-iiit-pet"]


@pytest.mark.parametrize("name, theirs", [("pets-trimap", "OxfordIIITPet"), ("voc", "VOCSegmentation")])
def test_an_error_of_torchvision_gets_a_name(tmp_path, monkeypatch, name, theirs):
    def broken(*args, **kw):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(f"torchvision.datasets.{theirs}", broken)
    with pytest.raises(
        DownloadError, match="could not be downloaded by torchvision: File not found or corrupted"
    ):
        datasets.SOURCES[name].fetch(tmp_path)


def test_an_archive_of_voc_that_is_there_is_used(tmp_path, monkeypatch):
    def theirs(to, year, image_set, download):
        assert (to / "VOCtrainval_11-May-2012.tar").read_bytes() == b"two gigabytes"
        (to / "VOCdevkit/VOC2012").mkdir(parents=True)

    (tmp_path / "VOCtrainval_11-May-2012.tar").write_bytes(b"two gigabytes")
    monkeypatch.setattr("torchvision.datasets.VOCSegmentation", theirs)
    datasets.SOURCES["voc"].fetch(tmp_path)
    assert (tmp_path / "VOCdevkit/VOC2012").is_dir()
    assert (tmp_path / "VOCtrainval_11-May-2012.tar").read_bytes() == b"two gigabytes"
