"""Rotate 256 pictures of 96×96 with 15 points each by an angle of their own.

kpnb.geometry stands beside torchvision v2, kornia and albumentations.

Run from the repository: `python bench/rotation.py`. All ways get the same pictures, points and angles. Each
is used as its documentation says for pictures with keypoints that need an angle each: torchvision and
albumentations work on one picture at a time, kornia and kpnb on the batch. Before anything is timed, the
points of all ways must agree to 1 px (torchvision and albumentations count pixels in conventions of their
own, so they differ by up to half a pixel or so).
"""

import albumentations as A
import kornia
import numpy as np
import torch
import torchvision
from common import machine, measure, table
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from kpnb.geometry import rotation, warp

N, SIZE, K = 256, 96, 15
generator = torch.Generator().manual_seed(0)
images = torch.rand(N, 1, SIZE, SIZE, generator=generator)
points = SIZE * (0.25 + 0.5 * torch.rand(N, K, 2, generator=generator))
angles = torch.rand(N, generator=generator) * 60 - 30
visible = torch.ones(N, K, dtype=torch.bool)
numpy_images = [im.permute(1, 2, 0).contiguous().numpy() for im in images]
numpy_points = [p.numpy() for p in points]
fixed = [
    A.Compose(
        [A.Affine(rotate=(float(a), float(a)), p=1.0)],
        keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
    )
    for a in angles
]


def kpnb():
    out = warp(
        {"image": images, "keypoints": points, "visible": visible}, rotation(angles, (SIZE / 2, SIZE / 2))
    )
    return out["image"], out["keypoints"]


def with_torchvision():
    moved = [
        tv.rotate(im, float(a), interpolation=tv.InterpolationMode.BILINEAR) for im, a in zip(images, angles)
    ]
    keypoints = [
        tv.rotate(tv_tensors.KeyPoints(p, canvas_size=(SIZE, SIZE)), float(a)) for p, a in zip(points, angles)
    ]
    return torch.stack(moved), torch.stack([torch.as_tensor(p) for p in keypoints])


def with_kornia():
    centre = torch.full((N, 2), (SIZE - 1) / 2)
    m = kornia.geometry.get_rotation_matrix2d(centre, angles, torch.ones(N, 2))
    moved = kornia.geometry.warp_affine(images, m, (SIZE, SIZE), align_corners=True)
    full = torch.cat([m, torch.tensor([0.0, 0.0, 1.0]).expand(N, 1, 3)], 1)
    return moved, kornia.geometry.transform_points(full, points - 0.5) + 0.5


def with_albumentations():
    out = [t(image=im, keypoints=p) for t, im, p in zip(fixed, numpy_images, numpy_points)]
    return torch.from_numpy(np.stack([o["image"] for o in out])), torch.from_numpy(
        np.stack([o["keypoints"] for o in out])
    )


WAYS = {
    "kpnb.geometry": kpnb,
    "kornia": with_kornia,
    "torchvision v2, a picture at a time": with_torchvision,
    "albumentations, a picture at a time": with_albumentations,
}


def main():
    expected = kpnb()[1]
    for name, way in WAYS.items():
        difference = (way()[1] - expected).abs().max().item()
        print(f"{name}: points within {difference:.3f} px of ours", flush=True)
        assert difference < 1.0, name
    seconds = measure(WAYS)
    versions = machine(
        torchvision=torchvision.__version__, kornia=kornia.__version__, albumentations=A.__version__
    )
    pictures = f"{N} pictures of 1×{SIZE}×{SIZE} float32 with {K} points"
    print(f"\n{pictures}, median of {len(seconds['kornia'])} runs; {versions}\n")
    fresh = dict.fromkeys(WAYS, "new pictures and points")
    print(table(seconds, "kpnb.geometry", fresh))


if __name__ == "__main__":
    main()
