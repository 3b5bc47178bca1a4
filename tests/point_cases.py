"""Pictures with points, some of them hidden, and names with sides, that several tests share."""

import torch

from kpnb.keypoints import KeypointDataset

SIDED = [  # names that say left or right, in all the ways in which people write them
    ["left_eye", "right_eye"],
    ["Left Eye", "nose"],
    ["l_ear", "r_ear"],
    ["eyeLeft", "eyeRight"],
    ["ear-L", "ear-R"],
    ["lefteye", "righteye"],
]


def data(seed=0, odd=None, n=6, k=5, size=16):
    "Pictures with some hidden points, whose coordinates are `odd`."
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, k, 2, generator=g) * (size - 2) + 1
    visible = torch.rand(n, k, generator=g) < 0.7
    if odd is not None:
        points = torch.where(visible[..., None], points, odd)
    images = torch.randint(0, 255, (n, 1, size, size), generator=g).byte()
    return KeypointDataset(images, points, visible, meta={"yaw": torch.zeros(n), "blur": torch.ones(n)})


def batch_of(ds):
    "All of a data set as one batch."
    return next(iter(ds.batches(len(ds), device="cpu")))
