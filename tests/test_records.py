"""From files to tensors: pictures, points and masks move together, and the way back is right."""

import os
import random
import warnings

import numpy as np
import pytest
import torch
from label_files import asf, imm, left_out, note, picture, png, pts, xml
from PIL import Image, JpegImagePlugin

from kpnb.core import DataError
from kpnb.datasets import describe, load
from kpnb.files import read_image
from kpnb.geometry import to_original


def test_order_does_not_depend_on_threads(tmp_path):
    imm(tmp_path, 6)
    one, many = load("imm", tmp_path, workers=1), load("imm", tmp_path, workers=6)
    assert one.names == many.names and torch.equal(one.images, many.images)


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


@pytest.mark.parametrize("factor", [1, 0.5])
def test_whole_numbers_lose_nothing(tmp_path, factor):
    (tmp_path / "lfpw").mkdir()
    picture(64, 48).save(tmp_path / "lfpw/a.png")
    (tmp_path / "lfpw/a.pts").write_text(pts([(5 + k % 50, 7) for k in range(68)]))
    ds = load("lfpw", tmp_path, size=(int(48 * factor), int(64 * factor)))
    expected = torch.tensor([(4.5 + k % 50, 6.5) for k in range(68)]) * factor
    assert torch.equal(ds.keypoints[0], expected)


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
