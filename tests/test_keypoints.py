"""Data sets of pictures and points: checked, divided, joined, moved, and the way back to the file."""

import numpy as np
import pytest
import torch
from point_cases import SIDED

from kpnb.augment import Augment, random_affine, random_perspective
from kpnb.core import VOID
from kpnb.geometry import (
    compose,
    crop_matrix,
    hflip_matrix,
    mirror_pairs,
    rotation,
    scaling,
    swap_order,
    to_original,
    translation,
    warp,
)
from kpnb.keypoints import KeypointDataset, concat

NAMES = ["left_eye", "right_eye", "nose", "left mouth corner", "right mouth corner"]
PAIRS = [(0, 1), (3, 4)]


def album(n=4, size=(60, 80), seed=0, names=NAMES, pairs=PAIRS, **kw):
    g = torch.Generator().manual_seed(seed)
    h, w = size
    points = torch.rand(n, len(names), 2, generator=g) * torch.tensor([w, h])
    images = torch.randint(0, 256, (n, 3, h, w), generator=g, dtype=torch.uint8)
    masks = torch.randint(0, 3, (n, h, w), generator=g, dtype=torch.uint8)
    return KeypointDataset(
        images, points, masks=masks, keypoint_names=names, pairs=pairs, mask_names=["a", "b", "c"], **kw
    )


def u(g, low, high):
    return float(torch.rand(1, generator=g)) * (high - low) + low


# What moves the pixels of a data set or a batch. Each step: (data set, generator) -> data set.
def _resize(ds, g):
    return ds.resize((int(u(g, 20, 90)), int(u(g, 20, 90))))


def _turn(ds, g):
    return ds.warp(rotation(u(g, -60, 60), (ds.size[1] / 2, ds.size[0] / 2)))


def _mirror(ds, g):
    return ds.warp(hflip_matrix(ds.size[1]))


def _affine(ds, g):
    return ds.warp(random_affine(len(ds), ds.size, 40, (0.6, 1.6), 0.3, 0.5, seed=g))


def _tilt(ds, g):
    return ds.warp(random_perspective(len(ds), ds.size, 0.2, seed=g), size=(50, 70), samples=2)


def _part(ds, g):
    return concat([ds[[1, 0]], ds[2:]])


def _select(ds, g):
    return ds.select(list(range(ds.keypoints.shape[1])))


def _crop(ds, g):
    h, w = ds.size
    boxes = torch.tensor(
        [[u(g, -9, w / 3), u(g, -9, h / 3), u(g, w / 2, w + 9), u(g, h / 2, h + 9)] for _ in range(len(ds))]
    )
    return ds.warp(crop_matrix(boxes, (48, 40), 0.1))


STEPS = [_resize, _turn, _mirror, _affine, _tilt, _part, _select, _crop]


@pytest.mark.parametrize("seed", range(25))
def test_any_chain_leads_back_to_the_file(seed):
    g = torch.Generator().manual_seed(seed)
    first = album(seed=seed)
    # the file is larger than the picture, and the picture a part of it
    first.to_file = compose(scaling(7.5, 6.5), translation(300, 200)).double().expand(4, 3, 3).clone()
    truth = dict(zip(first.names, to_original(first)))
    ds, done = first, []
    for i in torch.randint(len(STEPS), (6,), generator=g).tolist():
        ds = STEPS[i](ds, g)
        done.append(STEPS[i].__name__)
    back = to_original(ds)
    for name, points in zip(ds.names, back):
        error = (points - truth[name]).norm(dim=-1)
        known = error.isfinite()  # a perspective may send a point behind the camera
        assert known.float().mean() > 0.5 and error[known].max() < 0.05, (done, error)  # 0.05 of 800 px


def test_a_mirror_exchanges_the_sides_and_the_way_back_exchanges_them_again():
    ds = album()
    turned = ds.warp(hflip_matrix(80))
    order = swap_order(PAIRS, 5)
    torch.testing.assert_close(turned.keypoints[..., 0], 80 - ds.keypoints[:, order, 0])
    torch.testing.assert_close(to_original(turned), ds.keypoints)


def test_the_matrix_is_kept_by_everything_that_takes_a_part():
    ds = album(to_file=scaling(torch.arange(4.0) + 1).double())
    assert ds[2]["to_file"][0, 0] == 3 and ds[[3, 1]].to_file[:, 0, 0].tolist() == [4, 2]
    assert concat([ds[3:], ds[:1]]).to_file[:, 0, 0].tolist() == [4, 1]
    assert ds.select(["nose"]).gray().to("cpu").to_file[:, 0, 0].tolist() == [1, 2, 3, 4]
    assert [b["to_file"][0, 0, 0].item() for b in ds.batches(1, device="cpu")] == [1, 2, 3, 4]
    assert {b["to_file"].device.type for b in ds.batches(2, device="meta")} == {"meta"}


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"to_file: found float32 \(3, 3\); expected a float tensor of shape \(4,3,3\)"
    ):
        album(to_file=torch.eye(3))
    with pytest.raises(ValueError, match="has no 'to_file'"):
        to_original({"keypoints": torch.zeros(1, 1, 2)})


def test_whole_number_coordinates_lead_back_to_the_right_places():
    ds = album(n=1).resize((30, 40))
    torch.testing.assert_close(
        to_original(ds, torch.tensor([[[3, 5]] * 5])), to_original(ds, torch.tensor([[[3.0, 5.0]] * 5]))
    )


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0, 1e9])
def test_invisible_coordinates_change_nothing_that_is_seen(value):
    ds = album()
    hidden = torch.rand(ds.visible.shape, generator=torch.Generator().manual_seed(1)) < 0.4

    def moved(fill):
        points = torch.where(hidden[..., None], torch.tensor(fill), ds.keypoints)
        other = KeypointDataset(
            ds.images, points, ds.visible & ~hidden, ds.masks, keypoint_names=NAMES, pairs=PAIRS
        )
        batch = next(
            other.resize((90, 70)).batches(
                4, device="cpu", seed=3, augment=Augment(flip=0.5, perspective=0.1)
            )
        )
        return batch, other.warp(hflip_matrix(80))

    (a, da), (b, db) = moved(33.0), moved(value)
    torch.testing.assert_close(a["image"], b["image"])
    assert torch.equal(a["visible"], b["visible"]) and torch.equal(da.visible, db.visible)
    torch.testing.assert_close(a["keypoints"][a["visible"]], b["keypoints"][b["visible"]])
    torch.testing.assert_close(da.keypoints[da.visible], db.keypoints[db.visible])


# --- mirrors and their pairs ---


@pytest.mark.parametrize("names", SIDED)
def test_names_that_say_left_and_right_without_pairs_cannot_be_mirrored(names):
    ds = album(names=names, pairs=())
    with pytest.raises(ValueError, match="pairs are not known"):
        list(ds.batches(4, device="cpu", augment=Augment(flip=1.0)))
    with pytest.raises(ValueError, match="pairs are not known"):
        list(ds.batches(4, device="cpu", augment=Augment((), flip=1.0)))
    with pytest.raises(ValueError, match="pairs are not known"):
        ds.warp(hflip_matrix(80))
    assert ds.warp(rotation(10, (40, 30))) is not None  # what does not mirror needs no pairs


@pytest.mark.parametrize(
    "names", [["nose", "chin"], ["point 0", "point 1"], ["l", "m"], ["x", "r"], ["bright spot", "cleft"]]
)
def test_names_without_sides_need_no_pairs(names):
    ds = album(names=names, pairs=()).warp(hflip_matrix(80))
    assert ds.visible.all()


def test_a_single_left_point_cannot_be_mirrored():
    with pytest.raises(ValueError, match="left_eye say"):
        mirror_pairs(album().select(["left_eye", "nose"]).keypoint_names, ())


# --- masks ---


def test_what_lies_outside_is_void():
    ds = album()
    assert (ds.warp(translation(30, 0)).masks[:, :, :30] == VOID).all()
    assert (ds.warp(translation(30, 0), mask_fill=2).masks[:, :, :30] == 2).all()
    assert (warp(next(ds.batches(4, device="cpu")), translation(30, 0))["mask"][:, :, :30] == VOID).all()


# --- joining ---


@pytest.mark.parametrize(
    "what, change",
    [
        ("mask labels", dict(mask_names=["a", "c", "b"])),
        ("pairs", dict(pairs=())),
        ("keypoints", dict(keypoint_names=NAMES[::-1])),
    ],
)
def test_parts_that_mean_something_else_are_not_joined(what, change):
    ds = album()
    fields = {"keypoint_names": NAMES, "pairs": PAIRS, "mask_names": ["a", "b", "c"]} | change
    other = KeypointDataset(ds.images, ds.keypoints, masks=ds.masks, **fields)
    with pytest.raises(ValueError, match=f"concat: part 1 has {what}"):
        concat([ds, other])


def test_joined_without_all_masks_there_are_no_labels_either():
    ds = album()
    other = KeypointDataset(ds.images, ds.keypoints, keypoint_names=NAMES, pairs=PAIRS)
    both = concat([ds, other])
    assert both.masks is None and both.mask_names == []


# --- indices and kinds ---


def test_any_whole_number_is_an_index():
    ds = album()
    for i in (1, np.int64(1), torch.tensor(1), -3):
        assert ds[i]["name"] == "1"
    assert (
        len(ds[[]]) == 0
        and len(ds[torch.tensor([], dtype=torch.long)]) == 0
        and len(ds[np.array([], int)]) == 0
    )
    assert ds[np.array([3, -4])].names == ["3", "0"] and ds[[True, False, False, True]].names == ["0", "3"]


@pytest.mark.parametrize(
    "index, kind, words",
    [
        (4, IndexError, "index 4 of a data set of 4"),
        ([0, -5], IndexError, "index -5 of a data set of 4"),
        ([True], TypeError, "4,"),
        (1.0, TypeError, "expected"),
        ("a", TypeError, "expected"),
        ([[0]], TypeError, "expected"),
        ([0.5], TypeError, "expected"),
        (None, TypeError, "expected"),
    ],
)
def test_what_is_no_index_is_refused_in_words(index, kind, words):
    with pytest.raises(kind, match=words):
        album()[index]


def test_pictures_in_another_order_or_kind_are_refused():
    with pytest.raises(ValueError, match=r"looks like \(N,H,W,C\)"):
        KeypointDataset(torch.zeros(2, 60, 80, 3, dtype=torch.uint8), torch.ones(2, 1, 2))
    with pytest.raises(ValueError, match="masks: found float32"):
        KeypointDataset(
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.ones(2, 1, 2), masks=torch.zeros(2, 8, 8)
        )


def test_a_default_device_does_not_spoil_a_data_set():
    with torch.device("meta"):
        ds = album_on_cpu()
    assert ds.to_file.device.type == "cpu" and torch.equal(ds.to_file[0], torch.eye(3, dtype=torch.float64))


def album_on_cpu():
    return KeypointDataset(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device="cpu"), torch.ones(2, 1, 2, device="cpu")
    )


# --- divided ---


def test_no_group_is_on_both_sides_and_each_sample_is_held_back_once():
    ds = album(9, meta={"person": [i // 2 for i in range(9)]})
    for train, held in (ds.split(0.3, by="person"), *(ds.fold(i, 3, by="person") for i in range(3))):
        assert not {*train.meta["person"]} & {*held.meta["person"]} and len(train) + len(held) == 9
    assert sorted(n for i in range(5) for n in ds.fold(i)[1].names) == ds.names
    assert {*ds.sample(3).names} < {*ds.sample(5).names}
