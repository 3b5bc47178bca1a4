"""Random matrices and what is made of them: seeds, limits, sides, the way back."""

import pytest
import torch

from kpnb.augment import Augment, random_affine, random_perspective
from kpnb.core import VOID
from kpnb.geometry import crop_to_box, to_original
from kpnb.keypoints import KeypointDataset

NAMES = ["left_eye", "right_eye", "nose", "left mouth corner", "right mouth corner"]


def album(n=4, size=(60, 80), seed=0):
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, len(NAMES), 2, generator=g) * torch.tensor([size[1], size[0]])
    images = torch.randint(0, 256, (n, 3, *size), generator=g, dtype=torch.uint8)
    masks = torch.randint(0, 3, (n, *size), generator=g, dtype=torch.uint8)
    return KeypointDataset(images, points, masks=masks, keypoint_names=NAMES, pairs=[(0, 1), (3, 4)])


# --- matrices ---


@pytest.mark.parametrize("draw", [random_affine, random_perspective])
def test_the_same_seed_draws_the_same_and_a_generator_goes_on(draw):
    assert torch.equal(draw(3, 64, seed=5), draw(3, 64, seed=torch.Generator().manual_seed(5)))
    g = torch.Generator().manual_seed(5)
    assert not torch.equal(draw(3, 64, seed=g), draw(3, 64, seed=g))
    with pytest.raises(TypeError, match="seed is 0.5"):
        draw(3, 64, seed=0.5)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="0 < low <= high"):
        random_affine(2, 9, scale=(1.2, 1.1))
    with pytest.raises(ValueError, match="strength is -0.1"):
        random_perspective(2, 9, -0.1)
    with pytest.raises(ValueError, match="size is 0"):
        random_affine(2, 0)


# --- Augment ---


@pytest.mark.parametrize("seed", range(10))
def test_a_batch_that_was_augmented_and_cropped_leads_back(seed):
    ds = album(seed=seed)
    g = torch.Generator().manual_seed(seed)
    batch = next(
        ds.batches(
            4,
            device="cpu",
            seed=g,
            augment=Augment(degrees=40, scale=(0.7, 1.4), shift=0.2, flip=0.5, perspective=0.1),
        )
    )
    batch, _ = crop_to_box(batch, torch.tensor([[5.0, 5.0, 60.0, 50.0]]).expand(4, 4), (32, 40))
    assert (to_original(batch) - ds.keypoints).norm(dim=-1).max() < 0.01


def test_a_mirror_takes_the_pairs_of_the_data_set():
    ds = album()
    batch = next(ds.batches(4, device="cpu", augment=Augment(degrees=0, scale=(1, 1), shift=0, flip=1.0)))
    torch.testing.assert_close(batch["keypoints"][:, 0, 0], 80 - ds.keypoints[:, 1, 0])
    assert batch["pairs"] == ((0, 1), (3, 4))


def test_pairs_that_contradict_the_data_set_are_refused():
    for wrong in ((), [(0, 1)], [(0, 2)]):
        with pytest.raises(ValueError, match="and those of the data set are"):
            list(album().batches(4, device="cpu", augment=Augment(wrong, flip=0.5)))


def test_what_lies_outside_the_mask_is_void():
    far = Augment(degrees=0, scale=(0.5, 0.5), shift=0)(next(album().batches(4, device="cpu")))["mask"]
    assert (far[:, 0] == VOID).all()


def test_a_colour_change_leaves_the_global_random_state_alone():
    batch, state = next(album().batches(4, device="cpu")), torch.get_rng_state()
    noisy = Augment(colour=lambda part: part + torch.rand(len(part), 1, 1, 1))
    assert torch.equal(noisy(batch, 3)["image"], noisy(batch, 3)["image"])
    assert torch.equal(torch.get_rng_state(), state)
