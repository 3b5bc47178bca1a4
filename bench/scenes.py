"""How many labelled pictures a second `kpnb.scenes` makes, beside reading JPEG files with PIL.

The files are of the same size.

Run from the repository: `python bench/scenes.py [--threads 2] [--pictures 512] [--runs 9]`. Each row is the
median of the runs, all in one process, the ways taken in turn so that a slow moment hits all of them.
Rendering includes drawing the scene, keypoints, visibility, blur and noise; reading includes opening the
file from the page cache, decoding and copying into one uint8 tensor, and no labels.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kpnb.scenes import faces, pets


def write_jpegs(folder, images):
    "One JPEG file for each picture, quality 90; returns their paths."
    paths = [Path(folder) / f"{i:05d}.jpg" for i in range(len(images))]
    for path, image in zip(paths, images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, quality=90)
    return paths


def read_jpegs(paths, size):
    "All files as one (N,3,H,W) uint8 tensor (a view of (N,H,W,3) memory, which spares a copy)."
    out = np.empty((len(paths), size, size, 3), np.uint8)
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            out[i] = np.asarray(image.convert("RGB"))
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def measure(ways, n, runs):
    "Median, slowest and fastest pictures a second of each way; the first call of each is not counted."
    rates = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            result = way(run)
            if run:
                rates[name].append(n / (time.perf_counter() - start))
            assert len(result) == n
    return {name: (statistics.median(r), min(r), max(r)) for name, r in rates.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, PIL {Image.__version__}, {args.threads} threads (PIL uses one), "
        f"{args.pictures} pictures a run, median of {args.runs} runs\n"
    )
    print(
        "| pictures | size | way | allocates | images/s (median) | slowest | fastest |\n"
        "|---|---|---|---|---|---|---|"
    )
    for make, size in ((faces, 96), (pets, 128)):
        with tempfile.TemporaryDirectory() as folder:
            paths = write_jpegs(folder, make(args.pictures, size, seed=0).images)
            ways = {
                "kpnb.scenes, with masks": lambda run: make(args.pictures, size, seed=run).images,
                "kpnb.scenes, without masks": lambda run: (
                    make(args.pictures, size, seed=run, masks=False).images
                ),
                "PIL, JPEG files": lambda run: read_jpegs(paths, size),
            }
            for name, (median, low, high) in measure(ways, args.pictures, args.runs).items():
                what = (
                    "pictures"
                    if "PIL" in name
                    else "pictures, points" + (", masks" if "with m" in name else "")
                )
                print(
                    f"| {make.__name__} | {size}×{size} | {name} | {what} "
                    f"| {median:.0f} | {low:.0f} | {high:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
