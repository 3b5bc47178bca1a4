"""Files of labels, good and damaged: points in pixels, or what is wrong and in which line."""

import random

import numpy as np
import pytest
from label_files import BOX, KAGGLE_NAMES, OTHER_BOX, THIRD_BOX, asf, kaggle, noses, parts, pts, sheet, xml

from kpnb.core import DataError
from kpnb.formats import (
    IMM_NAMES,
    IMM_PAIRS,
    read_asf,
    read_dlib_xml,
    read_kaggle,
    read_noses,
    read_pts,
)
from kpnb.people import face_points

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
    [(IMM_NAMES, IMM_PAIRS, 4), (*face_points(68)[1:], 10), (*face_points(15)[1:], 3)],
)
def test_pairs(names, pairs, middle):
    flat = [i for p in pairs for i in p]
    assert len(set(flat)) == len(flat) == len(names) - middle


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
