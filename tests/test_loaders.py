"""Folders that are odd, broken or hostile: they load as they should, or what is left out is said."""

import os
import random

import pytest
from label_files import (
    BOX,
    OTHER_BOX,
    THIRD_BOX,
    asf,
    imm,
    kaggle,
    left_out,
    mutated,
    noses,
    note,
    parts,
    picture,
    pts,
    sheet,
    xml,
)
from PIL import Image

from kpnb.core import DataError
from kpnb.datasets import load


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
