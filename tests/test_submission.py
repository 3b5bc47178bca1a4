"Crops that know the way home, boxes around what can be seen, and answers that are refused by file and line."

import csv
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from network_cases import Constant
from PIL import Image

from kpnb.core import DataError, make_generator
from kpnb.crops import crop_faces, point_boxes, predict_mirrored, shake_boxes
from kpnb.datasets import load
from kpnb.facial import all_known
from kpnb.geometry import hflip_matrix, rotation, to_original
from kpnb.keypoints import KeypointDataset, concat
from kpnb.scenes import faces
from kpnb.submission import (
    SubmissionError,
    read_submission,
    submission_problems,
    submission_table,
    write_submission,
)

EMPTY = [math.nan, 0.0, -1.0, 1e9]


def album(n=4, size=(60, 80), seed=0, **kw):
    return all_known(faces(n, size, seed=seed, points=68, **kw))


def far(a, b, visible):
    "The largest distance of two sets of points, where they can be seen."
    return float((a - b).norm(dim=-1)[visible].max())


# ---- the way home


def test_crop_faces_of_a_resized_crop_leads_home(tmp_path):
    "Load at another size, cut, resize: each step used to replace the way home of the step before."
    photos = album(3, (90, 120), masks=False)
    (tmp_path / "lfpw/trainset").mkdir(parents=True)
    for i in range(3):
        path = tmp_path / f"lfpw/trainset/image_{i}.png"
        Image.fromarray(photos.images[i].permute(1, 2, 0).numpy()).save(path)
        points = "\n".join(f"{x + 0.5} {y + 0.5}" for x, y in photos.keypoints[i].double().tolist())
        path.with_suffix(".pts").write_text(f"version: 1\nn_points: 68\n{{\n{points}\n}}\n")
    truth = photos.keypoints
    for settings in (
        dict(size=(45, 60)),
        dict(size=64, crop=0.2, keep_aspect=True),
        dict(size=(70, 50), crop=0.1),
    ):
        loaded = load("lfpw", root=tmp_path, split="train", **settings)
        cut = crop_faces(loaded, point_boxes(loaded.keypoints, loaded.visible), (40, 56), margin=0.3)
        small = cut.resize((33, 47))
        for ds in (loaded, cut, small, small[1:]):
            expected = truth[-len(ds) :]
            assert far(to_original(ds), expected, ds.visible) < 0.01
            assert ds.meta["original_size"].tolist() == [[90, 120]] * len(ds)


def random_step(ds, g):
    "Any of the ways in which a data set moves."
    h, w = ds.size
    kind = int(torch.randint(6, (1,), generator=g))
    if kind == 0:
        return ds.resize(
            (int(torch.randint(30, 90, (1,), generator=g)), int(torch.randint(30, 90, (1,), generator=g)))
        )
    if kind == 1:
        return ds.warp(
            rotation(float(torch.rand(1, generator=g)) * 60 - 30, (w / 2, h / 2)), padding="border"
        )
    if kind == 2:
        return ds.warp(hflip_matrix(w))
    if kind == 3:
        return concat([ds[1:], ds[:1]])[[len(ds) - 1, *range(len(ds) - 1)]]
    boxes = shake_boxes(torch.tensor([[0, 0, w, h]]).repeat(len(ds), 1), 0.2, 0.3, g)
    size = (int(torch.randint(30, 90, (1,), generator=g)), int(torch.randint(30, 90, (1,), generator=g)))
    return crop_faces(ds, boxes, size, margin=0.1, keep_aspect=kind == 4)


def test_any_chain_of_moves_leads_home():
    start = album(3, (60, 80), masks=False)
    start = replace(start, meta=start.meta | {"original_size": torch.tensor([[60, 80]] * 3)})
    for seed in range(25):
        g, ds = make_generator(seed), start
        for _ in range(4):
            ds = random_step(ds, g)
        assert (to_original(ds) - start.keypoints).norm(dim=-1).max() < 0.01, seed
        assert torch.equal(to_original(ds, ds.keypoints), to_original(ds))


def test_a_bright_spot_and_its_point_stay_together_through_crops():
    images = torch.zeros(1, 1, 60, 80, dtype=torch.uint8)
    images[0, 0, 20:24, 50:54] = 255
    ds = KeypointDataset(images, torch.tensor([[[52.0, 22.0]]]))
    cut = crop_faces(
        crop_faces(ds, torch.tensor([[30, 5, 70, 45]]), 80), torch.tensor([[20, 10, 70, 60]]), 100, margin=0
    )
    light = cut.images[0, 0].double()
    at = torch.arange(100).double() + 0.5
    centre = torch.stack([(light * at).sum(), (light * at[:, None]).sum()]) / light.sum()
    assert (centre - cut.keypoints[0, 0]).abs().max() < 0.1
    assert torch.allclose(to_original(cut), ds.keypoints, atol=1e-3)


def test_original_size_is_that_of_the_file_not_that_of_the_step_before():
    ds = album(2, (60, 80), masks=False)
    cut = crop_faces(ds, point_boxes(ds.keypoints, ds.visible), 48)
    assert cut.meta["original_size"].tolist() == [[60, 80]] * 2
    again = crop_faces(cut.resize(96), torch.tensor([[10, 10, 80, 80]] * 2), 32)
    assert again.meta["original_size"].tolist() == [[60, 80]] * 2
    assert (
        crop_faces(ds.resize((30, 40)), torch.tensor([[0, 0, 40, 30]] * 2), 32).meta["original_size"].tolist()
        == [[60, 80]] * 2
    )
    turned = ds.warp(rotation(20, (40, 30)))  # how large the file was, nobody noted
    assert "original_size" not in crop_faces(turned, torch.tensor([[0, 0, 40, 30]] * 2), 32).meta


def test_what_lies_outside_a_picture_is_void_in_the_mask_of_its_crop():
    ds = faces(2, (40, 40), seed=1)
    box = torch.tensor([[-20.0, 0, 20, 40]] * 2)
    masks = crop_faces(ds, box, 40, margin=0).masks
    assert (masks[:, :, :20] == 255).all() and torch.equal(masks[:, :, 20:], ds.masks[:, :, :20])
    assert (crop_faces(ds, box, 40, margin=0, mask_fill=7).masks[:, :, :20] == 7).all()


def test_a_point_beyond_the_file_is_in_no_crop():
    ds = album(2, (60, 80), masks=False)
    points = ds.keypoints.clone()
    points[0, 0], points[1, 5] = torch.tensor([-5.0, 20.0]), torch.tensor([30.0, 64.0])
    ds = KeypointDataset(ds.images, points, names=ds.names, keypoint_names=ds.keypoint_names, pairs=ds.pairs)
    wide = crop_faces(ds, torch.tensor([[-20, -20, 100, 80]] * 2), 96)
    for cut in (wide, all_known(wide), all_known(wide.resize(64))):
        assert not cut.visible[0, 0] and not cut.visible[1, 5]
        assert int(cut.visible.sum()) == 2 * 68 - 2


# ---- points that cannot be seen, whole numbers


@pytest.mark.parametrize("place", EMPTY)
def test_a_box_is_around_the_visible_points_only(place):
    points = torch.tensor([[[30.0, 9.0], [70.0, 52.0], [50.0, 20.0]]])
    visible = torch.tensor([[True, True, False]])
    points[~visible] = place
    assert point_boxes(points, visible).tolist() == [[30, 9, 70, 52]]


@pytest.mark.parametrize("place", EMPTY)
def test_a_placeholder_neither_widens_a_crop_nor_comes_back_visible(place):
    ds = album(2, (60, 80), masks=False)
    visible = ds.visible.clone()
    visible[:, 20:30] = False
    spoiled = replace(ds, keypoints=torch.where(visible[..., None], ds.keypoints, place), visible=visible)
    clean = replace(ds, visible=visible)
    cut, expected = (crop_faces(d, point_boxes(d.keypoints, d.visible), 64) for d in (spoiled, clean))
    assert torch.equal(cut.images, expected.images) and torch.equal(cut.visible, expected.visible)
    assert not cut.visible[:, 20:30].any()
    if place == -1:
        assert not all_known(cut).visible[:, 20:30].any()


def test_point_boxes_refuses_visibility_of_another_shape():
    with pytest.raises(ValueError, match=r"found visible \(1, 2\); expected bool \(1, 3\)"):
        point_boxes(torch.zeros(1, 3, 2), torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_boxes_of_whole_numbers_are_shaken_like_others(dtype):
    boxes = torch.tensor([[10, 20, 60, 90], [0, 0, 7, 5]])
    shaken = shake_boxes(boxes.to(dtype), generator=3)
    assert shaken.dtype == torch.float32 and torch.equal(shaken, shake_boxes(boxes.float(), generator=3))
    assert (shaken - boxes).abs().max() > 0.3


def test_points_and_boxes_of_whole_numbers_give_the_same_boxes_and_crops():
    ds = album(2, (60, 80), masks=False)
    whole = ds.keypoints.round().long()
    assert torch.equal(point_boxes(whole), point_boxes(whole.float()))
    box = point_boxes(whole).long()
    a, b = crop_faces(ds, box, 50), crop_faces(ds, box.float(), 50)
    assert torch.equal(a.images, b.images) and torch.equal(a.keypoints, b.keypoints)


# ---- mirrors


def test_predict_mirrored_refuses_left_and_right_without_pairs():
    ds = faces(2, 32, gray=True, masks=False)
    model = Constant(torch.zeros(15, 2))
    assert predict_mirrored(model, ds, device="cpu").shape == (2, 15, 2)
    with pytest.raises(ValueError, match="left_eye_center.* say left or right and have no partner"):
        predict_mirrored(model, replace(ds, pairs=()), device="cpu")
    nameless = replace(ds, pairs=(), keypoint_names=[f"point {k}" for k in range(15)])
    assert predict_mirrored(model, nameless, device="cpu").shape == (2, 15, 2)


# ---- files of answers


@pytest.fixture
def asked():
    "Two faces of three points, in files of 60×80 pixels."
    ds = KeypointDataset(
        torch.zeros(2, 1, 20, 20, dtype=torch.uint8), torch.rand(2, 3, 2) * 20, names=["a.png", "b.png"]
    )
    return replace(ds, meta={"original_size": torch.tensor([[60, 80]] * 2)})


def lines(points):
    return ["Id,Predicted", *(f"{i},{v:.4f}" for i, v in enumerate(points.flatten().tolist()))]


@pytest.fixture
def answers():
    return torch.rand(2, 3, 2, generator=make_generator(0)) * 60


def test_answers_survive_the_way_through_a_file(tmp_path, asked, answers):
    path = tmp_path / "answers.csv"
    write_submission(path, answers, asked)
    assert torch.allclose(read_submission(path, asked), answers, atol=1e-4)
    for text in ("\r\n".join(lines(answers)), "\ufeff" + "\n".join(lines(answers)) + "\n\n"):
        path.write_text(text, encoding="utf-8", newline="")
        assert torch.allclose(read_submission(path, asked), answers, atol=1e-4)


ODD = {
    "an empty file": (lambda t: [], "the file is empty"),
    "a field too many": (lambda t: [*t[:4], t[4] + ",7", *t[5:]], "line 5 has 3 fields; expected 2"),
    "a field too few": (lambda t: [*t[:4], "3", *t[5:]], "line 5 has 1 fields; expected 2"),
    "an index column": (
        lambda t: [t[0], *(f"{i},{row}" for i, row in enumerate(t[1:]))],
        "line 2 has 3 fields; expected 2",
    ),
    "a field of 300 KB": (
        lambda t: [*t[:4], "3," + "9" * 300_000, *t[5:]],
        "line 5: field larger than field limit",
    ),
    "a quote that never ends": (lambda t: [*t[:4], '3,"1.0', *t[5:]], "unexpected end of data"),
    "a word": (
        lambda t: [*t[:4], "3,left", *t[5:]],
        "no finite numbers, the first is in line 5, that of 3 (a.png, point 1, y)",
    ),
    "True": (lambda t: [*t[:4], "3,True", *t[5:]], "no finite numbers, the first is in line 5"),
    "an underscore": (lambda t: [*t[:4], "3,1_0", *t[5:]], "no finite numbers, the first is in line 5"),
    "infinity": (lambda t: [*t[:4], "3,inf", *t[5:]], "no finite numbers, the first is in line 5"),
    "400 digits": (lambda t: [*t[:4], "3," + "9" * 400, *t[5:]], "no finite numbers, the first is in line 5"),
    "400 digits for a number": (
        lambda t: [*t[:4], "9" * 400 + ",1", *t[5:]],
        "number that is none of 0 to 11, the first is line 5",
    ),
    "half a number": (
        lambda t: [*t[:4], "3.5,1", *t[5:]],
        "number that is none of 0 to 11, the first is line 5",
    ),
    "a number twice": (
        lambda t: [*t[:4], "2,1", *t[5:]],
        "repeated, the first is 2 (a.png, point 1, x), again in line 5",
    ),
    "two rows exchanged": (lambda t: [*t[:4], t[5], t[4], *t[6:]], "not in order: line 5 has the number 4"),
    "a place outside": (
        lambda t: [*t[:4], "3,60.5", *t[5:]],
        "60.5 in line 5, that of 3 (a.png, point 1, y); expected 0 to 60",
    ),
    "other columns": (lambda t: ["Id,Value", *t[1:]], "found the columns Id, Value; expected Id, Predicted"),
    "a column twice": (lambda t: ["Id,Id", *t[1:]], "found the columns Id, Id; expected Id, Predicted"),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_answers_are_refused_by_file_and_line(tmp_path, asked, answers, odd):
    spoil, says = ODD[odd]
    path = tmp_path / "answers.csv"
    path.write_text("\n".join(spoil(lines(answers))))
    with pytest.raises(DataError) as e:
        read_submission(path, asked)
    assert isinstance(e.value, SubmissionError) and str(path) in str(e.value) and says in str(e.value)


@pytest.mark.parametrize(
    "raw, says",
    [
        (b"Id,Predicted\n0,1\n\xff\xfe1,2\n", "line 3 is no UTF-8 text"),
        ("Id,Predicted\n0,1\n".encode("utf-16"), "line 1 is no UTF-8 text"),
        (b"Id,Predicted\n0,\x00\n", "answers.csv"),
        (b"\x00" * 5000, "answers.csv"),
        (bytes(range(128, 256)), "line 1 is no UTF-8 text"),
    ],
    ids=["bytes", "UTF-16", "a zero", "zeros", "high bytes"],
)
def test_bytes_that_are_no_table_are_refused_by_name(tmp_path, asked, raw, says):
    path = tmp_path / "answers.csv"
    path.write_bytes(raw)
    with pytest.raises(DataError, match="answers.csv") as e:
        read_submission(path, asked)
    assert says in str(e.value)


def test_random_damage_to_a_file_never_ends_in_another_error(tmp_path, asked, answers):
    path, good = tmp_path / "answers.csv", "\n".join(lines(answers)).encode()
    rng = np.random.default_rng(0)
    for _ in range(150):
        raw = bytearray(good)
        for at in rng.integers(0, len(raw), 3):
            raw[at] = rng.integers(0, 256)
        path.write_bytes(bytes(raw[: rng.integers(1, len(raw) + 1)]))
        try:
            assert read_submission(path, asked).shape == answers.shape
        except DataError as e:
            assert str(path) in str(e)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path, asked):
    with pytest.raises(DataError, match="this is a folder; expected a CSV file"):
        read_submission(tmp_path, asked)
    with pytest.raises(FileNotFoundError):
        read_submission(tmp_path / "none.csv", asked)


def test_tables_with_odd_values_are_problems_not_exceptions(asked, answers):
    good = submission_table(answers)
    assert submission_problems(good, asked) == []
    for value in (True, b"1", 1 + 2j, 10**400, None, pd.NA, "1_0", [1], math.inf):
        column = good["Predicted"].astype(object)
        column.iloc[3] = value
        assert (
            "no finite numbers, the first is in row 3"
            in submission_problems(good.assign(Predicted=column), asked)[0]
        ), value
        numbers = good["Id"].astype(object)
        numbers.iloc[3] = value
        assert (
            "none of 0 to 11, the first is row 3" in submission_problems(good.assign(Id=numbers), asked)[0]
        ), value


def test_two_columns_need_two_names(tmp_path, asked, answers):
    for columns in (("a", "a"), ("a",), "ab", ("a", "b", "c")):
        with pytest.raises(ValueError, match="columns: found .* expected two different names"):
            write_submission(tmp_path / "x.csv", answers, asked, columns=columns)
    assert not list(tmp_path.iterdir())


def test_writing_keeps_a_link_and_leaves_the_old_file_when_it_refuses(tmp_path, asked, answers):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real/answers.csv", tmp_path / "answers.csv"
    target.write_text("old")
    link.symlink_to(target)
    with pytest.raises(SubmissionError):
        write_submission(link, answers + 500, asked)
    assert target.read_text() == "old"
    write_submission(link, answers, asked)
    assert link.is_symlink() and [row[0] for row in csv.reader(target.read_text().splitlines())] == [
        "Id",
        *map(str, range(12)),
    ]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["answers.csv", "answers.csv", "real"]


def test_answers_for_other_faces_are_refused_by_name(tmp_path, asked, answers):
    names, path = list(asked.names), tmp_path / "answers.csv"
    write_submission(path, answers, asked)
    before = path.read_bytes()
    for wrong, says in (
        (names[:1], f"1 of 2 faces have no answer, the first is {names[1]}"),
        (names[:1] * 2, "1 faces are answered more than once"),
        (names[::-1], f"answer 0 is for {names[1]}, expected {names[0]}"),
        ([names[0], "7.png"], "1 answers are for no face asked for, the first is 7.png"),
    ):
        with pytest.raises(SubmissionError) as e:
            write_submission(path, answers, asked, names=wrong)
        assert says in str(e.value)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["answers.csv"]


def test_answers_outside_their_picture_are_refused_clipped_or_allowed(tmp_path, asked, answers):
    path, far_away = tmp_path / "answers.csv", answers.clone()
    h, w = asked.meta["original_size"][0].tolist()
    far_away[0, 0] = torch.tensor([-3.0, h + 500.0])
    with pytest.raises(SubmissionError, match="outside their picture"):
        write_submission(path, far_away, asked)
    assert write_submission(path, far_away, asked, outside="clip")["Predicted"][:2].tolist() == [0.0, h]
    write_submission(path, far_away, asked, outside="allow")
    assert torch.allclose(read_submission(path, asked, outside=True), far_away, atol=1e-3)
    with pytest.raises(ValueError, match="outside is 'perhaps'"):
        write_submission(path, answers, asked, outside="perhaps")
