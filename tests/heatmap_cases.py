"""Pictures, points and maps that the tests of heatmaps, decoders, losses and codecs share."""

import inspect
import math

import torch
from torch import nn
from torch.testing import assert_close

from kpnb import backbones, models
from kpnb.backbones import CoarseHeatmap
from kpnb.core import make_generator
from kpnb.heatmap_losses import (
    LOSS_SPACES,
)
from kpnb.heatmaps import gaussian_heatmaps
from kpnb.keypoints import KeypointDataset

SIZE = (64, 96)


SMOOTH = [
    kind for kind in LOSS_SPACES if kind != "focal"
]  # the focal loss wants one bright cell, not the hill


def a_batch(n=2, k=2, size=SIZE, seed=0):
    "Pictures with points at least 20 pixels from the edge, all visible."
    g = make_generator(seed)
    h, w = size
    points = 20 + torch.rand(n, k, 2, generator=g) * torch.tensor([w - 40.0, h - 40.0])
    return {
        "image": torch.rand(n, 3, h, w, generator=g),
        "keypoints": points,
        "visible": torch.ones(n, k, dtype=torch.bool),
    }


def moved(batch, dx, dy):
    return batch | {"keypoints": batch["keypoints"] + torch.tensor([dx, dy])}


def drawings(batch, stride=4):
    "A perfect network's answer in each space."
    map_ = gaussian_heatmaps(batch["keypoints"], SIZE, 8.0, stride, batch["visible"])
    return {"probabilities": map_, "logits": map_.clamp(1e-6, 1 - 1e-6).logit(), "heights": map_ - 0.02}


def a_dataset(names=("left eye", "right eye"), pairs=((0, 1),), n=4, size=(32, 32)):
    g, k = make_generator(0), len(names)
    images = torch.randint(0, 256, (n, 3, *size), generator=g, dtype=torch.uint8)
    points = 4 + torch.rand(n, k, 2, generator=g) * 24
    return KeypointDataset(
        images, points, torch.ones(n, k, dtype=torch.bool), keypoint_names=names, pairs=pairs
    )


def networks():
    """Every class whose first setting is the number of points.

    It comes with and without logits where it has the choice."""
    found = {}
    for module in (models, backbones):
        for name in module.__all__:
            kind = getattr(module, name)
            settings = (
                list(inspect.signature(kind).parameters)
                if inspect.isclass(kind) and issubclass(kind, nn.Module)
                else []
            )
            if not settings or settings[0] != "keypoints":
                continue
            options = {"in_channels": 3} if "in_channels" in settings else {}
            if name == "NoseNet":
                options["size"] = SIZE
            if "logits" not in settings:
                found[name] = lambda kind=kind, options=options: kind(2, **options)
                continue
            for logits in (False, True):
                found[f"{name}, logits={logits}"] = lambda kind=kind, o=options | {"logits": logits}: kind(
                    2, **o
                )
    return found


NETWORKS = networks()
DRAWING = [name for name in NETWORKS if "Heatmap" in name]


SEEN = torch.tensor(
    [[True, False], [False, True], [True, True], [False, False]]
)  # what is visible, and what is not
Z = 3 * torch.randn(4, 2, *(s // 4 for s in SIZE), generator=make_generator(5))  # what a network answers


def tiny(keypoints):
    torch.manual_seed(0)
    return CoarseHeatmap(keypoints, channels=(4, 4, 4, 4, 4))


def as_dataset(b, keypoints=2):
    names, pairs = ("left eye", "right eye")[:keypoints], [(0, 1)] if keypoints == 2 else ()
    names = names if keypoints == 2 else ("nose",)
    points, visible = b["keypoints"][:, :keypoints], b["visible"][:, :keypoints]
    return KeypointDataset((b["image"] * 255).byte(), points, visible, keypoint_names=names, pairs=pairs)


def target(b):
    return gaussian_heatmaps(b["keypoints"], SIZE, 6.0, 4, b["visible"])


def takes_labels(thing):
    calls = [thing]
    if inspect.isclass(thing):
        calls = [
            f
            for name, f in inspect.getmembers(thing, inspect.isfunction)
            if name == "__call__" or not name.startswith("_")
        ]
    names = {p for f in calls if callable(f) for p in inspect.signature(f).parameters}
    return bool(names & {"visible", "batch", "ds", "train", "data"})


def forgotten(module, uses):
    "Public names of a module that take labels and have no use in a table."
    return {name for name in module.__all__ if takes_labels(getattr(module, name))} - {*uses}


def hidden_points_change_nothing(use):
    batch = a_batch(4) | {"visible": SEEN}
    expected = use(batch)
    assert expected.isfinite().all()
    for value in (math.nan, 0.0, -1.0, 1e9):
        hidden = torch.where(SEEN[..., None], batch["keypoints"], value)
        assert_close(use(batch | {"keypoints": hidden}), expected, atol=0, rtol=0)


def default_device_changes_nothing(uses):
    batch = a_batch(4) | {"visible": SEEN}
    expected = {name: use(batch) for name, use in uses.items()}
    with torch.device("meta"):
        for name, use in uses.items():
            assert_close(use(batch), expected[name], atol=0, rtol=0)
    for name, use in uses.items():
        assert_close(use(batch), expected[name], atol=0, rtol=0)
