"""The expected calibration error of 64 maps, beside torchmetrics, netcal and torch-uncertainty.

The maps have 21 classes and 128×128 pixels.

Run from the repository: `python bench/ece.py`; `--small` uses 4 maps, to see that everything runs. Peers
that are not installed are named and left out. All ways get the same probabilities and labels, and must give
the same ECE before anything is timed. netcal counts rows in NumPy, so its input is brought to rows
beforehand, outside the timing. The second table shows how the memory of a stream behaves: bytes of what a
counter keeps after 1 and after 8 batches.
"""

import importlib
import statistics
import sys
from importlib.metadata import version

import torch
from common import machine, measure, table

from kpnb.calibration import Reliability, ece
from kpnb.confidences import sample_calibrated

OURS = "kpnb Reliability"


def peer(module, package):
    "A module, or None with a line that says why."
    try:
        return importlib.import_module(module)
    except ImportError as e:
        print(f"{package} is left out: {e}")


def ways(probs, target, found):
    "name -> function that gives the ECE"
    classes = probs.shape[1]
    ways = {OURS: lambda: float(ece(Reliability(10).update(probs, target).compute()))}
    if tm := peer("torchmetrics.classification", "torchmetrics"):
        found["torchmetrics"] = version("torchmetrics")
        ways["torchmetrics"] = lambda: float(tm.MulticlassCalibrationError(classes, n_bins=10)(probs, target))
        ways["torchmetrics, validate_args=False"] = lambda: float(
            tm.MulticlassCalibrationError(classes, n_bins=10, validate_args=False)(probs, target)
        )
    if nc := peer("netcal.metrics", "netcal"):
        found["netcal"] = version("netcal")
        rows, labels = probs.movedim(1, -1).flatten(0, 2).numpy(), target.flatten().numpy()
        ways["netcal, from rows"] = lambda: float(nc.ECE(bins=10).measure(rows, labels))
    if tu := peer("torch_uncertainty.metrics", "torch-uncertainty"):
        found["torch-uncertainty"] = version("torch-uncertainty")
        flat = probs.movedim(1, -1).flatten(0, 2).contiguous()

        def one():
            metric = tu.CalibrationError(task="multiclass", num_classes=classes, num_bins=10)
            metric.update(flat, target.flatten())
            return float(metric.compute())

        ways["torch-uncertainty, from rows"] = one
    return ways


def kept(metric):
    "Bytes of the tensors that a metric keeps."
    values = [
        v
        for x in vars(metric).values()
        for v in (x if isinstance(x, list) else [x])
        if isinstance(v, torch.Tensor)
    ]
    return sum(v.numel() * v.element_size() for v in values)


def memory(probs, target):
    "What is kept after 1 and after 8 batches."
    counters = {OURS: Reliability(10)}
    if tm := peer("torchmetrics.classification", "torchmetrics"):
        counters["torchmetrics"] = tm.MulticlassCalibrationError(
            probs.shape[1], n_bins=10, validate_args=False
        )
    lines = ["| way | bytes after 1 batch | after 8 |", "|---|---|---|"]
    for name, counter in counters.items():
        sizes = []
        for _ in range(8):
            counter.update(probs[:2], target[:2])
            sizes.append(kept(counter))
        lines.append(f"| {name} | {sizes[0]:,} | {sizes[-1]:,} |")
    return "\n".join(lines)


def main():
    n = 4 if "--small" in sys.argv else 64
    logits, target = sample_calibrated(n, classes=21, size=128, strength=3.0, seed=0)
    probs, found = logits.softmax(1), {}
    all_ways = ways(probs, target, found)
    values = {name: way() for name, way in all_ways.items()}
    spread = max(values.values()) - min(values.values())
    assert spread < 2e-5, values
    print(f"{machine(**found)}\n\nAll ways agree within {spread:.1e}.\n")
    small = "--small" in sys.argv
    seconds = measure(all_ways, runs=3 if small else 9, warmup=1 if small else 2)
    allocates = dict.fromkeys(all_ways, "several arrays of the size of the input") | {
        OURS: "chunks of 2 maps"
    }
    allocates |= {k: "a copy of all confidences" for k in all_ways if k.startswith("torch")}
    print(
        f"### ECE of {n}×21×128² probabilities, 10 bins\n\n"
        f"{table(seconds, OURS, allocates)}\n\n{memory(probs, target)}"
    )
    print(f"\nours: median {1e3 * statistics.median(seconds[OURS]):.0f} ms")


if __name__ == "__main__":
    main()
