"""Labels as a data set: what is not finished, not there or not understood is said."""

import pytest
from label_folders import coco, picture, write

from kpnb.datasets import load
from kpnb.label_file import LabelFile
from kpnb.labels import SEEN, Label
from kpnb.own_data import register


def test_coco_pictures_with_an_unlabelled_point_load_and_what_is_left_out_is_said(tmp_path):
    for f in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / f, (80, 100))
    data = coco(
        {
            "a.jpg": [10, 20, 2, 0, 0, 0, 5, 5, 2],
            "b.jpg": [5, 6, 2, 7, 8, 2, 9, 9, 2],
            "c.jpg": [0, 0, 0] * 3,
            "gone.jpg": [1, 1, 2] * 3,
        }
    )
    data["annotations"].append(
        {"id": 2, "image_id": 11, "category_id": 5, "keypoints": [1, 1, 2, 0, 0, 0, 0, 0, 0]}
    )
    register("turned", write(tmp_path / "other.json", data))
    said = []
    with pytest.warns(UserWarning):
        ds = load("turned", on_error="skip", skipped=said)
    assert (
        ds.names == ["a.jpg", "b.jpg"]
        and ds.keypoints[0, 1].isnan().all()
        and ds.visible.tolist() == [[True, False, True], [True] * 3]
    )
    text = "\n".join(said)
    assert (
        "c.jpg: not finished" in text
        and "gone.jpg: a label without a picture" in text
        and "several, such as b.jpg" in text
    )
    labels = LabelFile(tmp_path, ["tip", "end"])
    labels.put("a.jpg", Label((80, 100), {"tip": (1, 2, SEEN)}))
    labels.put("b.jpg", Label((80, 100), {"tip": (1, 2, SEEN), "end": (3, 4, SEEN)}))
    register("repeated", labels.path)
    said = []
    with pytest.warns(UserWarning):
        assert load("repeated", on_error="skip", skipped=said).names == ["b.jpg"]
    assert said == ["a.jpg: not finished: end is not decided"] and load("repeated", split="rest").names == [
        "a.jpg",
        "c.jpg",
    ]
