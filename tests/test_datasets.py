"""Files that are odd, broken or hostile: they load as they should, or are refused with a DataError that names them."""
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from kpnb import datasets
from kpnb.datasets import (
    IBUG_NAMES,
    IBUG_PAIRS,
    IMM_NAMES,
    IMM_PAIRS,
    KAGGLE_NAMES,
    KAGGLE_PAIRS,
    SOURCES,
    DataError,
    load,
    read_asf,
    read_dlib_xml,
    read_image,
    read_kaggle,
    read_noses,
    read_pts,
    to_original,
)


def picture(w=20, h=12, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8))


def asf(points=((0.5, 0.25),) * 58):
    return "# AAM\n58\n" + "".join(f"0 4 {x} {y} {i} 0 1\n" for i, (x, y) in enumerate(points)) + "01-1m.jpg\n"


def pts(points=((5, 6),) * 68):
    return "version: 1\nn_points: 68\n{\n" + "".join(f"{x} {y}\n" for x, y in points) + "}\n"


def noses(n=30): return "".join(f'cat_{i}.jpg,"({i}, {2 * i})"\n' for i in range(n))


def xml():
    parts = "".join(f"<part name='{k:02}' x='{k}' y='{2 * k}'/>" for k in range(68))
    return f"<dataset><images><image file='a.jpg'>\n<box top='1' left='2' width='30' height='40'>{parts}</box>\n</image></images></dataset>"


def kaggle():
    row = ",".join([*("" if i % 7 == 0 else str(i / 3) for i in range(30)), " ".join(["7"] * 9216)])
    return ",".join([f"{n}_{a}" for n in KAGGLE_NAMES for a in "xy"] + ["Image"]) + "\n" + row + "\n" + row + "\n"


READERS = {"x.asf": (asf, read_asf), "x.pts": (pts, read_pts), "x.txt": (noses, read_noses), "x.xml": (xml, read_dlib_xml),
           "x.csv": (kaggle, lambda path: read_kaggle(path, KAGGLE_NAMES))}


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
                case 0: data[i] = rng.randrange(256)
                case 1: del data[i:i + rng.randint(1, 40)]
                case 2: data[i:i] = rng.choice([b"\n", b",", b"nan", b"-", b"<", b"\0", b"1e999", "²٣é".encode(), b" "])
                case 3: del data[i:]
            if not data: break
        path.write_bytes(bytes(data))
        try: found = read(path)
        except DataError as e: refused += 1; assert name in str(e)
        else:
            if isinstance(found, np.ndarray): assert np.isfinite(found).all() and len(found) in (58, 68)
            elif found[1]: refused += 1; assert all(name in s for s in found[1])
    assert refused > 30


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_damaged_pictures_are_refused_and_never_crash(tmp_path, form):
    picture(60, 40).save(tmp_path / "good", form)
    good, rng, path = (tmp_path / "good").read_bytes(), random.Random(1), tmp_path / "x.jpg"
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)): data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        path.write_bytes(bytes(data[:rng.choice([len(data), rng.randrange(len(data))])]))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read_image(path)
        except DataError as e: assert "x.jpg" in str(e)
        else: assert found.dtype == torch.uint8 and found.shape[0] == 3


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
    back = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}[turn]  # how a camera held that way stores it
    stored = upright
    for t in back: stored = stored.transpose(t)
    exif = Image.Exif(); exif[0x0112] = turn
    stored.save(tmp_path / "x.png", exif=exif)
    assert (read_image(tmp_path / "x.png").permute(1, 2, 0).numpy() == np.array(upright)).all()


def test_an_impossible_orientation_counts_as_none(tmp_path):
    exif = Image.Exif(); exif[0x0112] = 99
    picture().save(tmp_path / "x.png", exif=exif)
    assert (read_image(tmp_path / "x.png").permute(1, 2, 0).numpy() == np.array(picture())).all()


def imm(folder, count=3, **save):
    folder = folder / "imm_face_db"; folder.mkdir(parents=True)
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
    with pytest.raises(DataError, match="01-1m.asf: found 2 pictures of this name"): load("imm", tmp_path)


def test_files_of_other_computers_are_ignored(tmp_path):
    folder = imm(tmp_path)
    for name in ("._01-1m.jpg", "._01-1m.asf", ".DS_Store", "Thumbs.db", "readme.txt"): (folder / name).write_text("x")
    assert len(load("imm", tmp_path)) == 3


def test_names_outside_the_scheme_are_refused(tmp_path):
    folder = imm(tmp_path)
    for old, new in [("01-1m", "41-1m"), ("01-2m", "01-7m")]:
        for ending in ("jpg", "asf"): (folder / f"{old}.{ending}").rename(folder / f"{new}.{ending}")
    with pytest.raises(DataError, match="2 problems") as e: load("imm", tmp_path)
    assert "41-1m.jpg: expected a name such as" in str(e.value) and "01-7m.jpg" in str(e.value)


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    folder = imm(tmp_path)
    for p in folder.glob("*.asf"): p.unlink()
    with pytest.raises(DataError, match="3 problems"): load("imm", tmp_path, on_error="skip")
    for p in folder.glob("*.jpg"): p.unlink()
    with pytest.raises(FileNotFoundError, match="found no samples in"): load("imm", tmp_path)


def test_the_warning_points_to_the_caller(tmp_path):
    (imm(tmp_path) / "01-1m.jpg").write_text("broken")
    with pytest.warns(UserWarning, match="imm: 1 left out: .*01-1m.jpg") as caught: assert len(load("imm", tmp_path, on_error="skip")) == 2
    assert caught[0].filename == __file__


def test_a_picture_that_breaks_off_is_found_when_decoded(tmp_path):
    path = imm(tmp_path) / "01-2m.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="01-2m.jpg: cannot be read .*truncated"): load("imm", tmp_path)
    left_out = []
    with pytest.warns(UserWarning): ds = load("imm", tmp_path, on_error="skip", skipped=left_out)
    assert ds.names == ["01-1m.jpg", "01-3m.jpg"] and len(left_out) == 1


@pytest.mark.parametrize("kw", [dict(size=(24, 32)), dict(size=(31, 17)), dict(size=40, keep_aspect=True), dict(size=(30, 50), crop=0.3), dict(size=33, crop=0.0, keep_aspect=True)])
def test_points_go_there_and_back(tmp_path, kw):
    imm(tmp_path)
    small, whole = load("imm", tmp_path, **kw), load("imm", tmp_path)
    torch.testing.assert_close(to_original(small), whole.keypoints, atol=1e-3, rtol=0)
    torch.testing.assert_close(to_original(small.resize((90, 70))), whole.keypoints, atol=1e-3, rtol=0)
    if kw.get("keep_aspect"):  # one scale for both axes
        across, down = ((small.keypoints[0, 57] - small.keypoints[0, 0]) / (whole.keypoints[0, 57] - whole.keypoints[0, 0])).tolist()
        assert abs(across - down) < 1e-4


@pytest.mark.parametrize("box, said", [((900, 900, 950, 950), "outside the picture"), ((-1e6, -1e6, 1e6, 1e6), "far larger than the picture")])
def test_boxes_from_outside_cost_no_memory(tmp_path, box, said):
    (tmp_path / "300w").mkdir()
    picture(64, 48).save(tmp_path / "300w/a.jpg")
    left, top, right, bottom = box
    text = xml().replace("top='1' left='2' width='30' height='40'", f"top='{top}' left='{left}' width='{right - left}' height='{bottom - top}'")
    (tmp_path / "300w/faces.xml").write_text(text)
    assert len(load("300w", tmp_path)) == 1
    with pytest.raises(DataError, match=said): load("300w", tmp_path, size=32, crop=0.1)


def test_ignored_boxes_are_no_samples(tmp_path):
    (tmp_path / "x.xml").write_text(xml().replace("<box", "<box ignore='1'"))
    assert read_dlib_xml(tmp_path / "x.xml") == ([], [])


@pytest.mark.parametrize("head", ["<!DOCTYPE d>", "<!DOCTYPE d SYSTEM 'file:///etc/passwd'>", "<!DOCTYPE d [<!ENTITY a 'b'>]>"])
def test_no_document_types(tmp_path, head):
    (tmp_path / "x.xml").write_text(head + xml())
    with pytest.raises(DataError, match="x.xml, line 1: found a document type declaration"): read_dlib_xml(tmp_path / "x.xml")


def test_conventions_in_one_place(tmp_path):
    """A pixel whose column is 4 and whose row is 6, as each format writes it."""
    for name, text, read in [("a.pts", pts([(5, 7)] * 68), lambda p: read_pts(p)[0]), ("a.txt", 'c.jpg,"(4, 6)"', lambda p: read_noses(p)[0]["c.jpg"]),
                             ("a.xml", xml().replace("x='0' y='0'", "x='4' y='6'"), lambda p: read_dlib_xml(p)[0][0][3][0])]:
        (tmp_path / name).write_text(text)
        assert tuple(read(tmp_path / name)) == (4.5, 6.5)
    (tmp_path / "a.asf").write_text(asf([(4.5 / 96, 6.5 / 96)] * 58))
    assert np.allclose(read_asf(tmp_path / "a.asf") * 96, (4.5, 6.5))


@pytest.mark.parametrize("names, pairs, middle", [(IMM_NAMES, IMM_PAIRS, 4), (IBUG_NAMES, IBUG_PAIRS, 10), (KAGGLE_NAMES, KAGGLE_PAIRS, 3)])
def test_pairs(names, pairs, middle):
    flat = [i for p in pairs for i in p]
    assert len(set(flat)) == len(flat) == len(names) - middle


def test_every_source_says_how():
    for name, s in SOURCES.items():
        assert s.pixels and "http" in s.obtain + (s.fetch is not None) * "http" and s.splits and bool(s.keypoint_names) != bool(s.mask_names), name
    assert {n for n, s in SOURCES.items() if s.fetch} == {"imm", "pet-noses", "pets-trimap", "voc"}


def test_a_jpeg_is_decoded_small_when_a_small_one_is_asked_for(tmp_path):
    picture(640, 480).save(tmp_path / "x.jpg")
    assert datasets._decode(tmp_path / "x.jpg", want=(40, 30))[1] == 8
    assert datasets._decode(tmp_path / "x.jpg", want=(200, 150))[1] == 1
    assert datasets._decode(tmp_path / "x.jpg")[0].size == (640, 480)
