"""The study on real faces trains as it says, and takes no row of other settings for its own."""

import pandas as pd
import pytest
import torch

from kpnb.core import seed_everything
from kpnb.gaussians import decode_mean, predict_gaussians
from kpnb.keypoints import KeypointDataset
from kpnb.likelihood import DistributionLoss, gaussian_nll
from kpnb.recipes.gaussian_faces import real_faces
from kpnb.training import fit
from kpnb.uncertainty import PROJECT, GaussianNet


def data(seed=0, odd=None, n=6, k=5, size=16):
    "Pictures with some hidden points, whose coordinates are `odd`."
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, k, 2, generator=g) * (size - 2) + 1
    visible = torch.rand(n, k, generator=g) < 0.7
    if odd is not None:
        points = torch.where(visible[..., None], points, odd)
    images = torch.randint(0, 255, (n, 1, size, size), generator=g).byte()
    return KeypointDataset(images, points, visible, meta={"yaw": torch.zeros(n), "blur": torch.ones(n)})


def small_parts():
    return data(1, n=12), data(2, n=6), data(3, n=6)


def test_real_faces_with_the_projects_settings_trains_as_the_project_did():
    train, apart, held = small_parts()
    got = real_faces(
        parts=(train, apart, held), kinds=("gnll",), **(PROJECT | dict(epochs=2, batch_size=4, lr=1e-2))
    )
    seed_everything(0)
    model = GaussianNet(5, (16, 16))
    how = dict(
        optimizer="adam",
        weight_decay=0.0,
        schedule=None,
        augment=None,
        patience=20,
        fast=False,
        progress=False,
    )
    score = DistributionLoss(gaussian_nll, bounds=None)
    fit(
        model,
        train,
        apart,
        loss=DistributionLoss(),
        decode=decode_mean,
        metrics={"nll": score},
        monitor="valid_nll",
        mode="min",
        epochs=2,
        batch_size=4,
        lr=1e-2,
        seed=0,
        **how,
    )
    error = (predict_gaussians(model, held).mean - held.keypoints).norm(dim=-1)[held.visible].mean().item()
    assert got["error_px"][0] == pytest.approx(error, abs=1e-6)


def test_real_faces_does_not_take_rows_of_other_settings_for_its_own(tmp_path):
    how = dict(parts=small_parts(), kinds=("rmse",), folder=tmp_path, epochs=1)
    first = real_faces(**how)
    pd.testing.assert_frame_equal(real_faces(**how), first)
    with pytest.raises(ValueError, match=r"lfpw-small-0-0\.csv.*lr=0\.1"):
        real_faces(**how, lr=0.1)


def test_faces_whose_sides_are_not_known_are_not_mirrored():
    ds = data(1, n=12, k=2)
    ds.keypoint_names = ["left_eye", "right_eye"]
    with pytest.raises(ValueError, match="left and right"):
        real_faces(parts=(ds, ds, ds), kinds=("rmse",), epochs=1)
