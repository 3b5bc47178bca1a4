"Properties of rendered scenes: they are their own files, and a mirror of them is what mirrors say."

from dataclasses import replace

import pytest
import torch

from kpnb.geometry import hflip_matrix, mirror_pairs, to_original
from kpnb.scenes import faces, pets, render, sample_faces, sample_pets

KINDS = {
    "faces 1": (faces, 1),
    "faces 15": (faces, 15),
    "faces 68": (faces, 68),
    "pets 1": (pets, 1),
    "pets 8": (pets, 8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [40, (30, 50)])
def test_a_scene_is_its_own_file(kind, size):
    make, points = KINDS[kind]
    for ds in (
        make(3, size, points=points),
        make(3, size, points=points, label_noise=2.0, gray=True, masks=False),
    ):
        assert torch.equal(ds.to_file, torch.eye(3, dtype=torch.float64).repeat(3, 1, 1))
        assert torch.equal(to_original(ds), ds.keypoints)
        assert torch.allclose(to_original(ds.resize((21, 33))), ds.keypoints, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_all_names_that_say_left_or_right_have_a_partner(kind):
    make, points = KINDS[kind]
    ds = make(1, 32, points=points)
    assert mirror_pairs(ds.keypoint_names, ds.pairs) == tuple(ds.pairs)
    for left, right in ds.pairs:
        a, b = ds.keypoint_names[left], ds.keypoint_names[right]
        assert "left" not in a or (b == a.replace("left", "right"))


@pytest.mark.parametrize(
    "sample, points",
    [(sample_faces, 15), (sample_faces, 68), (sample_faces, 1), (sample_pets, 8), (sample_pets, 1)],
)
def test_a_mirrored_picture_is_the_picture_of_the_mirrored_scene(sample, points):
    for seed in range(3):
        scene = sample(6, seed, noise=0.0, blur=0.0, yaw=20.0)
        turned, built = (
            render(scene, (36, 52), points).warp(hflip_matrix(52)),
            render(scene.mirrored(), (36, 52), points),
        )
        assert (turned.keypoints - built.keypoints).abs().max() < 2e-3
        assert torch.equal(turned.visible, built.visible)
        assert (turned.images.float() - built.images.float()).abs().mean() < 3
        assert (turned.masks != built.masks).float().mean() < 1e-3
        assert torch.allclose(to_original(turned), render(scene, (36, 52), points).keypoints, atol=0.01)


@pytest.mark.parametrize("sample", [sample_faces, sample_pets])
def test_a_scene_without_its_pairs_is_not_mirrored(sample):
    ds = render(sample(2, 0), 32)
    with pytest.raises(ValueError, match="pairs"):
        replace(ds, pairs=()).warp(hflip_matrix(32))


def test_a_mirror_twice_is_no_mirror():
    for seed in range(5):
        ds = faces(3, 40, seed=seed, points=68)
        twice = ds.warp(hflip_matrix(40)).warp(hflip_matrix(40))
        assert (
            torch.equal(twice.images, ds.images)
            and torch.equal(twice.masks, ds.masks)
            and torch.equal(twice.visible, ds.visible)
        )
        assert torch.allclose(twice.keypoints, ds.keypoints, atol=1e-3)
        assert torch.allclose(twice.to_file, ds.to_file)


def test_noisy_labels_that_leave_the_picture_are_not_visible():
    ds = faces(20, 40, seed=1, label_noise=15.0)
    outside = ((ds.keypoints < 0) | (ds.keypoints > 40)).any(-1)
    assert outside.any() and not ds.visible[outside].any()


@pytest.mark.parametrize(
    "make, option, message",
    [
        (faces, {"yaw": 120.0}, "yaw: found 120.0; expected a number from 0 to 90"),
        (faces, {"occluders": 1.5}, "occluders: found 1.5; expected a number from 0 to 1"),
        (faces, {"size": (0, 96)}, "size: found (0, 96)"),
        (faces, {"blur": -1.0}, "blur: found -1.0"),
        (faces, {"label_noise": -1.0}, "label_noise: found -1.0"),
        (pets, {"points": 15}, "points: found 15; expected 1 or 8"),
        (pets, {"dogs": 2}, "dogs: found 2; expected a number from 0 to 1"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_an_option_out_of_its_range_is_named(make, option, message):
    with pytest.raises(ValueError) as e:
        make(2, **option)
    assert str(e.value).startswith(message)
