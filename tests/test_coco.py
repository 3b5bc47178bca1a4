"""COCO files: what is written comes back, and a broken file is an error that names its entry."""

import json

import pytest
from label_folders import BROKEN, broken_coco, coco, random_labels_come_back, write

from kpnb.coco import CocoFile, read_coco, to_coco
from kpnb.core import DataError
from kpnb.labels import SEEN, Label


def test_random_labels_come_back(tmp_path):
    "Any mixture of states, names and places survives the COCO file."
    random_labels_come_back(to_coco, read_coco, tmp_path / "t")


def test_a_size_is_height_and_width_and_the_file_names_both(tmp_path):
    text = to_coco(["tip"], {"a.jpg": Label((120, 160), {"tip": (1, 2, SEEN)})})
    image = json.loads(text)["images"][0]
    assert (image["width"], image["height"]) == (160, 120)
    assert read_coco(write(tmp_path / "t.json", text))[1]["a.jpg"].size == (120, 160)


def test_a_new_picture_in_another_programs_file_says_width_first(tmp_path):
    path = write(tmp_path / "keypoints.json", coco({"a.jpg": [1, 2, 2] * 3}))
    file = CocoFile(path)
    text = file.updated(file.names, file.rows | {"b.jpg": Label((120, 160), {"a": (1, 2, SEEN)})})
    assert json.dumps(json.loads(text)["images"][1]) == (
        '{"id": 11, "file_name": "b.jpg", "width": 160, "height": 120}'
    )


@pytest.mark.parametrize("bad", BROKEN)
def test_a_broken_file_is_an_error_that_names_file_and_entry(tmp_path, bad):
    path = tmp_path / "keypoints.json"
    says = broken_coco(path, bad)
    with pytest.raises(DataError, match=f"keypoints.json.*{says}"):
        read_coco(path)
