"""Names of pictures, labels, and the table: what cannot be read is said, and nothing changes on the way."""

import os
import sys

import pytest
from label_folders import BROKEN_TABLES, picture, random_labels_come_back, write

from kpnb.core import DataError
from kpnb.labels import SEEN, Label, picture_name, pictures_in, read_csv, to_csv


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="these systems refuse such names")
def test_a_name_that_is_no_text(tmp_path):
    picture(tmp_path / "good.jpg")
    try:
        (tmp_path / os.fsdecode(b"bad\xff.jpg")).write_bytes((tmp_path / "good.jpg").read_bytes())
    except OSError:
        pytest.skip("the file system refuses it")
    names, notes = pictures_in(tmp_path)
    assert names == ["good.jpg"] and any("its name is not valid text" in n for n in notes)


def test_programs_that_write_one_path_in_several_ways_mean_one_picture():
    assert [picture_name(f) for f in ("./a.jpg", "s\\a.jpg", "s//./a.jpg", "s/../a.jpg")] == [
        "a.jpg",
        "s/a.jpg",
        "s/a.jpg",
        "a.jpg",
    ]


def test_a_size_is_height_and_width_and_the_table_says_width_first(tmp_path):
    label = Label((120, 160), {"tip": (1, 2, SEEN)})
    table = to_csv(["tip"], {"a.jpg": label})
    assert table == b"file,width,height,state,tip_x,tip_y,tip_v\na.jpg,160,120,labelled,1,2,2\n"
    assert read_csv(write(tmp_path / "t.csv", table))[1]["a.jpg"].size == (120, 160)
    with pytest.raises(ValueError, match="width is '0'"):
        Label((1, 0))


def test_random_labels_come_back(tmp_path):
    "Any mixture of states, names and places survives the table."
    random_labels_come_back(to_csv, read_csv, tmp_path / "t")


@pytest.mark.parametrize("bad, says", BROKEN_TABLES)
def test_a_broken_table_is_an_error_with_its_line(tmp_path, bad, says):
    table = write(tmp_path / "keypoints.csv", bad)
    with pytest.raises(DataError, match=f"(?s)keypoints.csv.*{says}"):
        read_csv(table)
