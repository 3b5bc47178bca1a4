"""Draw heatmaps, decode them, and compare them without drawing.

kpnb.heatmaps stands beside kornia, dsntnn and mmpose.

Run from the repository: `python bench/heatmaps.py`. All ways get the same points and maps, and before
anything is timed they must agree: maps to 1e-4, points to 0.01 cells, losses to 1e-5. kornia gives maps
that sum to 1, and counts from the centre of the first pixel; both are allowed for before comparing.

mmpose needs the compiled part of mmcv, but its codecs are plain numpy and OpenCV.
`pip install --no-deps mmpose==1.3.2 dsntnn==0.5.3` is enough: this script loads the folder
`mmpose/codecs/utils` by itself, without the rest of mmpose. Where it is missing, its arithmetic stands in,
written out below in numpy and labelled so. dsntnn's rows are left out where it is missing.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import kornia
import numpy as np
import torch
import torch.nn.functional as F
from common import machine, measure, table

from kpnb.decoders import decode_dark, decode_soft_argmax
from kpnb.geometry import normalise
from kpnb.heatmap_losses import dsnt_loss, gaussian_mse
from kpnb.heatmaps import gaussian_heatmaps

N, K, SIZE, SIGMA = 32, 15, 256, 7.0
g = torch.Generator().manual_seed(0)
points = SIZE * (0.1 + 0.8 * torch.rand(N, K, 2, generator=g))
visible = torch.ones(N, K, dtype=torch.bool)


def mmpose_codec():
    "mmpose's codec functions, without importing mmpose itself; None if it is not installed."
    found = importlib.util.find_spec("mmpose")
    if found is None:
        return None
    folder = Path(found.origin).parent / "codecs" / "utils"
    spec = importlib.util.spec_from_file_location(
        "mmpose_codec_utils", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def dsnt():
    "dsntnn, or None."
    if importlib.util.find_spec("dsntnn") is None:
        return None
    import dsntnn

    return dsntnn


MMPOSE, DSNT = mmpose_codec(), dsnt()
THEIRS = (
    "mmpose's codec, a picture at a time" if MMPOSE else "mmpose's arithmetic in numpy, a picture at a time"
)


def unbiased_in_numpy(size, keypoints, seen, sigma):
    """What mmpose's generate_unbiased_gaussian_heatmaps computes.

    A full two-dimensional exponential for each point."""
    maps, x = (
        np.zeros((keypoints.shape[1], size[1], size[0]), np.float32),
        np.arange(size[0], dtype=np.float32),
    )
    y = np.arange(size[1], dtype=np.float32)[:, None]
    for k, mu in enumerate(keypoints[0]):
        np.maximum(maps[k], np.exp(-((x - mu[0]) ** 2 + (y - mu[1]) ** 2) / (2 * sigma**2)), out=maps[k])
    return maps, seen


def dark_in_numpy(places, maps):
    """The Newell step of DARK, point by point.

    It has the differences of mmpose's refine_keypoints_dark without its blur."""
    for k, (x, y) in enumerate(places[0].astype(int)):
        m = np.log(np.maximum(maps[k], 1e-10))
        if not (1 < x < m.shape[1] - 2 and 1 < y < m.shape[0] - 2):
            continue
        slope = np.array([m[y, x + 1] - m[y, x - 1], m[y + 1, x] - m[y - 1, x]]) / 2
        cross = (m[y + 1, x + 1] - m[y - 1, x + 1] - m[y + 1, x - 1] + m[y - 1, x - 1]) / 4
        curve = np.array(
            [
                [(m[y, x + 2] - 2 * m[y, x] + m[y, x - 2]) / 4, cross],
                [cross, (m[y + 2, x] - 2 * m[y, x] + m[y - 2, x]) / 4],
            ]
        )
        places[0, k] -= np.linalg.solve(curve, slope)
    return places


def rendering():
    "Rows of the first table, how each result is compared, and what it allocates."
    buffer, flat, codec = (
        torch.empty(N, K, SIZE, SIZE),
        points.view(-1, 2) - 0.5,
        MMPOSE.generate_unbiased_gaussian_heatmaps if MMPOSE else unbiased_in_numpy,
    )
    single, seen, std = (
        (points.numpy() - 0.5)[:, None],
        np.ones((1, K), np.float32),
        torch.full((N * K, 2), SIGMA),
    )
    ways = {
        "kpnb.heatmaps, into a buffer": lambda: gaussian_heatmaps(points, SIZE, SIGMA, out=buffer),
        "kpnb.heatmaps": lambda: gaussian_heatmaps(points, SIZE, SIGMA),
        "kornia": lambda: kornia.geometry.subpix.render_gaussian2d(flat, std, (SIZE, SIZE), False),
        THEIRS: lambda: [codec((SIZE, SIZE), p, seen, SIGMA)[0] for p in single],
    }
    peak = lambda m: m / m.flatten(1).amax(1)[:, None, None]
    ours = ways["kpnb.heatmaps"]().view(-1, SIZE, SIZE)
    results = {
        "kornia": peak(ways["kornia"]()) * ours.flatten(1).amax(1)[:, None, None],
        THEIRS: torch.from_numpy(np.concatenate(ways[THEIRS]())),
    }
    if DSNT:
        unit = normalise(points, SIZE)
        ways["dsntnn"] = lambda: DSNT.make_gauss(unit, (SIZE, SIZE), SIGMA, normalize=False)
        results["dsntnn"] = ways["dsntnn"]().view(-1, SIZE, SIZE)
    for name, m in results.items():
        agree(name, (m - ours).abs().max().item(), 1e-4)
    fresh = dict.fromkeys(ways, "new maps") | {
        "kpnb.heatmaps, into a buffer": "rows and columns",
        THEIRS: "new maps, and a temporary map for each point",
    }
    return (
        f"Draw {N}×{K} Gaussians of σ = {SIGMA:g} at {SIZE}×{SIZE}",
        ways,
        "kpnb.heatmaps, into a buffer",
        fresh,
    )


def soft_argmax():
    "The second table: soft-argmax of 64×64 maps, β = 50."
    maps, beta = gaussian_heatmaps(points / 4, 64, 2.0) + 0.01 * torch.rand(N, K, 64, 64, generator=g), 50.0
    ways = {
        "kpnb.heatmaps": lambda: decode_soft_argmax(maps, 1, beta),
        "kornia": lambda: (
            kornia.geometry.subpix.spatial_soft_argmax2d(maps, torch.tensor(1 / beta), False) + 0.5
        ),
    }
    if DSNT:
        ways["dsntnn"] = lambda: (
            DSNT.normalized_to_pixel_coordinates(DSNT.dsnt(DSNT.flat_softmax(maps * beta)), (64, 64)) + 0.5
        )
    for name, way in ways.items():
        agree(name, (way() - ways["kpnb.heatmaps"]()).abs().max().item(), 0.01)
    return (
        f"Soft-argmax of {N}×{K} maps of 64×64, β = {beta:g}",
        ways,
        "kpnb.heatmaps",
        dict.fromkeys(ways, "probabilities, points"),
    )


def dark():
    "The third table: DARK without blur on 64×64 maps."
    maps = gaussian_heatmaps(points / 4, 64, 2.0)

    def one_by_one():
        out = []
        for m in maps.numpy():
            index = m.reshape(K, -1).argmax(1)
            places = np.stack([index % 64, index // 64], -1)[None].astype(np.float32)
            out.append(dark_in_numpy(places, m))
        return torch.from_numpy(np.concatenate(out)) + 0.5

    ways = {
        "kpnb.heatmaps": lambda: decode_dark(maps),
        "numpy, a point at a time, with mmpose's differences": one_by_one,
    }
    agree("numpy", (one_by_one() - decode_dark(maps)).abs().max().item(), 0.01)
    return f"DARK on {N}×{K} maps of 64×64", ways, "kpnb.heatmaps", dict.fromkeys(ways, "points")


def losses():
    "The fourth table: mean squared error against Gaussians, with and without drawing them."
    maps, buffer, size = (
        torch.rand(N, K, SIZE, SIZE, generator=g),
        torch.empty(N, K, SIZE, SIZE),
        (SIZE, SIZE),
    )
    ways = {
        "kpnb.heatmaps, nothing drawn": lambda: gaussian_mse(maps, points, visible, size, SIGMA),
        "drawn into a buffer, then mse_loss": lambda: F.mse_loss(
            maps, gaussian_heatmaps(points, SIZE, SIGMA, out=buffer)
        ),
        "drawn, then mse_loss": lambda: F.mse_loss(maps, gaussian_heatmaps(points, SIZE, SIGMA)),
    }
    for name, way in ways.items():
        agree(name, abs(way().item() / ways["drawn, then mse_loss"]().item() - 1), 1e-5)
    fresh = {
        "kpnb.heatmaps, nothing drawn": "rows and columns",
        "drawn into a buffer, then mse_loss": "the difference",
        "drawn, then mse_loss": "the target and the difference",
    }
    return (
        f"MSE of {N}×{K} maps of {SIZE}×{SIZE} against Gaussians",
        ways,
        "kpnb.heatmaps, nothing drawn",
        fresh,
    )


def gradients():
    "The fifth table: the same with its gradient."
    maps, size = torch.rand(N, K, SIZE, SIZE, generator=g, requires_grad=True), (SIZE, SIZE)
    gradient = lambda loss: torch.autograd.grad(loss, maps)[0]
    ways = {
        "kpnb.heatmaps, nothing drawn": lambda: gradient(gaussian_mse(maps, points, visible, size, SIGMA)),
        "drawn, then mse_loss": lambda: gradient(F.mse_loss(maps, gaussian_heatmaps(points, SIZE, SIGMA))),
    }
    agree(
        "gradient",
        (ways["drawn, then mse_loss"]() - ways["kpnb.heatmaps, nothing drawn"]()).abs().max().item()
        * maps.numel(),
        1e-4,
    )
    return (
        "The same, with the gradient",
        ways,
        "kpnb.heatmaps, nothing drawn",
        {
            "kpnb.heatmaps, nothing drawn": "the gradient",
            "drawn, then mse_loss": "the target, the difference and the gradient",
        },
    )


def agree(name, difference, limit):
    print(f"{name}: within {difference:.1g} of ours", flush=True)
    assert difference <= limit, f"{name} differs by {difference}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if DSNT:
        logits, unit = 3 * torch.randn(2, 3, 64, 64, generator=g), normalise(points[:2, :3] / 4, 64)
        probs = DSNT.flat_softmax(logits)
        theirs = (DSNT.euclidean_losses(DSNT.dsnt(probs), unit) + DSNT.js_reg_losses(probs, unit, 2.0)).mean()
        agree(
            "dsntnn's loss",
            abs(theirs.item() - dsnt_loss(logits, points[:2, :3] / 4, visible[:2, :3], (64, 64), 2.0).item()),
            1e-5,
        )
    for make in (rendering, soft_argmax, dark, losses, gradients):
        title, ways, ours, allocates = make()
        runs = measure(ways, runs=options.runs, warmup=min(2, options.runs))
        values = {k: v * 2 if len(v) == 1 else v for k, v in runs.items()}  # quartiles want two
        print(
            f"\n{title}, median of {options.runs} runs; {machine(kornia=kornia.__version__)}\n\n"
            f"{table(values, ours, allocates)}\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
