"""Places, matrices, mirrors, blur: what moves a batch that somebody made by hand."""

import pytest
import torch
from point_cases import SIDED

from kpnb.core import make_generator
from kpnb.geometry import (
    compose,
    gaussian_blur,
    hflip_matrix,
    mirror_pairs,
    other_side,
    rotation,
    scaling,
    size_hw,
    to_original,
    transform_points,
    warp,
)

# --- sizes ---


def test_a_size_is_height_and_width_or_one_number():
    assert size_hw(7) == (7, 7) and size_hw([4, 6]) == size_hw(torch.Size([4, 6])) == (4, 6)
    for wrong in (0, (4,), (4, -1), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"expected \(height, width\) in whole pixels"):
            size_hw(wrong)
    with pytest.raises(ValueError, match="crop is 0"):
        size_hw(0, "crop")


# --- points and pictures ---


def test_whole_number_coordinates_give_the_right_places():
    points = torch.tensor([[[10, 20], [30, 7]]])
    m = compose(rotation(30, (40, 30)), scaling(0.37))
    torch.testing.assert_close(transform_points(points, m), transform_points(points.float(), m))


def test_pictures_that_are_not_floats_are_refused():
    with pytest.raises(ValueError, match="warp: the pictures are uint8"):
        warp({"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, torch.eye(3)[None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pictures_of_other_floats_keep_their_kind(dtype):
    image = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    m = rotation(20, (8, 6))
    moved = warp({"image": image.to(dtype)}, m)["image"]
    assert moved.dtype == dtype
    torch.testing.assert_close(moved.float(), warp({"image": image}, m)["image"], atol=0.01, rtol=0)


# --- mirrors and their pairs ---


@pytest.mark.parametrize("names", SIDED)
def test_names_that_say_left_and_right_need_pairs(names):
    with pytest.raises(ValueError, match="say left or right and have no partner"):
        mirror_pairs(names, ())


@pytest.mark.parametrize(
    "names", [["nose", "chin"], ["point 0", "point 1"], ["l", "m"], ["x", "r"], ["bright spot", "cleft"]]
)
def test_names_without_sides_need_no_pairs(names):
    assert mirror_pairs(names, ()) == ()


@pytest.mark.parametrize(
    "name, other",
    [
        ("left_eye", "right_eye"),
        ("Right Ear", "Left Ear"),
        ("eyeLeft", "eyeRight"),
        ("LEFT_PAW", "RIGHT_PAW"),
        ("nose", None),
        ("l_ear", None),  # a letter is a side only where its partner is
        ("bright", None),
    ],
)
def test_the_name_of_the_other_side(name, other):
    assert other_side(name, [name]) == other
    assert other_side("l_ear", ["l_ear", "r_ear"]) == "r_ear"


def test_sides_are_exchanged_where_a_matrix_mirrors_and_the_way_back_exchanges_them_again():
    points, matrix = (
        torch.rand(2, 3, 2, generator=make_generator(0)) * 8,
        torch.cat([hflip_matrix(8), scaling(2)]),
    )
    batch = {"image": torch.zeros(2, 1, 8, 8), "keypoints": points, "pairs": [(0, 2)]}
    batch["to_file"] = torch.eye(3).repeat(2, 1, 1)
    moved = warp(batch, matrix)
    torch.testing.assert_close(moved["keypoints"][0, :, 1], points[0, [2, 1, 0], 1])
    torch.testing.assert_close(moved["keypoints"][1], points[1] * 2)
    torch.testing.assert_close(to_original(moved), points)


def test_a_batch_by_hand_without_pairs_is_not_mirrored_in_silence():
    batch = {"image": torch.zeros(1, 1, 8, 8), "keypoints": torch.ones(1, 2, 2)}
    with pytest.raises(ValueError, match="the batch has no 'pairs'"):
        warp(batch, hflip_matrix(8))
    assert warp(batch, hflip_matrix(8), pairs=())["keypoints"][0, 0].tolist() == [7, 1]
    assert warp({"image": batch["image"]}, hflip_matrix(8))["image"].shape == (
        1,
        1,
        8,
        8,
    )  # no points, no question


# --- blur ---


def test_blur_keeps_an_even_picture_and_a_sharp_one():
    even = torch.full((2, 1, 9, 9), 0.4)
    assert torch.allclose(gaussian_blur(even, torch.tensor([0.0, 2.0])), even)
    sharp = torch.rand(1, 3, 9, 9, generator=make_generator(0))
    assert torch.equal(gaussian_blur(sharp, torch.zeros(1)), sharp)
