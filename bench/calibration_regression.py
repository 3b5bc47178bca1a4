"""Miscalibration area of 143 000 predictions: kpnb.scores beside the uncertainty-toolbox.

The toolbox is on PyPI: `pip install uncertainty-toolbox`.

Run from the repository: `python bench/calibration_regression.py`. Both get the same float64 predictions,
and both of the toolbox's ways are measured: level by level (its default), and all levels in one matrix.
Before anything is timed, the areas must agree to 1e-9; the CRPS and the sharpness are compared as well.
Where the toolbox is not installed, the script says so, and its arithmetic stands in, written out below in
numpy and labelled so.
"""

import argparse
from importlib.metadata import version

import numpy as np
import torch
from common import machine, measure, table

from kpnb.scores import crps_gaussian, miscalibration_area, sharpness

try:
    import uncertainty_toolbox as toolbox
    from uncertainty_toolbox.metrics_scoring_rule import crps_gaussian as toolbox_crps
except ImportError:
    toolbox = None

parser = argparse.ArgumentParser()
parser.add_argument("--points", type=int, default=143_000)
parser.add_argument("--runs", type=int, default=9)
args = parser.parse_args()
generator = torch.Generator().manual_seed(0)
mean, noise = torch.randn(2, args.points, generator=generator, dtype=torch.float64)
std = 0.5 + torch.rand(args.points, generator=generator, dtype=torch.float64)
target = mean + 1.2 * std * noise  # promises that are a little too narrow
arrays = [x.numpy() for x in (mean, std, target)]


def area_in_numpy(mean, std, target, levels=100, matrix=False):
    """The toolbox's arithmetic: for each level the share within its central interval.

    Then the area between two polylines."""
    expected = np.linspace(0, 1, levels)
    limits, z = torch.special.ndtri(torch.from_numpy(0.5 + expected / 2)).numpy(), np.abs(mean - target) / std
    found = (z[:, None] <= limits).mean(0) if matrix else np.array([np.mean(z <= limit) for limit in limits])
    a, b = (found - expected)[:-1], (found - expected)[1:]
    crossing = (a**2 + b**2) / (2 * np.maximum(np.abs(a) + np.abs(b), 1e-300))
    return float((np.where(a * b < 0, crossing, np.abs(a + b) / 2) / (levels - 1)).sum())


THEIRS = "uncertainty-toolbox" if toolbox else "the toolbox's arithmetic in numpy"
LOOP, MATRIX = f"{THEIRS}, level by level", f"{THEIRS}, all levels in one matrix"
WAYS = {
    "kpnb.scores": lambda: miscalibration_area(mean, std, target),
    LOOP: lambda: toolbox.miscalibration_area(*arrays) if toolbox else area_in_numpy(*arrays),
    MATRIX: lambda: (
        toolbox.miscalibration_area(*arrays, vectorized=True)
        if toolbox
        else area_in_numpy(*arrays, matrix=True)
    ),
}
ALLOCATES = {
    "kpnb.scores": "a few rows of points",
    LOOP: "two rows of points a level",
    MATRIX: "a matrix of points × 100",
}


def main():
    if not toolbox:
        print(
            "uncertainty-toolbox is not installed: its arithmetic in numpy stands in "
            "(pip install uncertainty-toolbox)\n"
        )
    areas = {name: way() for name, way in WAYS.items()}
    for name, area in areas.items():
        print(f"{name}: area {area:.12f}", flush=True)
    assert max(areas.values()) - min(areas.values()) < 1e-9, areas
    if toolbox:
        assert abs(crps_gaussian(mean, std, target).mean().item() - toolbox_crps(*arrays)) < 1e-9
        assert abs(sharpness(std) - toolbox.sharpness(arrays[1])) < 1e-9
    peer = {"uncertainty_toolbox": version("uncertainty-toolbox")} if toolbox else {}
    seconds = measure(WAYS, args.runs)
    print(
        f"\n{args.points} points, 100 levels, median of {args.runs} runs; "
        f"{machine(numpy=np.__version__, **peer)}\n"
    )
    print(table(seconds, "kpnb.scores", ALLOCATES))


if __name__ == "__main__":
    main()
