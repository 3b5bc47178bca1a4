"""The rows of this folder that matter on a graphics card: warps, heatmaps, ECE and training steps.

Run from the repository: `python bench/gpu.py` (or `make gpu`); without CUDA it says so and ends. Everything
lies on the device before the clock starts, and the clock stops when the device has done all its work. The
peers are those of the other scripts, on the same device, and must agree with us before anything is timed.
The training steps say what `fit` chooses by itself, and what one more step towards speed would give.
"""

import copy
import sys
from importlib.metadata import version

import kornia
import torch
import torchmetrics
from common import machine, measure, table
from torch import nn

from kpnb.calibration import Reliability, ece
from kpnb.confidences import sample_calibrated
from kpnb.decoders import decode_soft_argmax
from kpnb.evaluation import point_mse
from kpnb.geometry import rotation, warp
from kpnb.heatmap_losses import HeatmapLoss, gaussian_mse
from kpnb.heatmaps import gaussian_heatmaps
from kpnb.models import NoseNet, ResNet18Heatmap
from kpnb.optimisation import make_optimizer, precision, train_epoch

N, K, SIZE, SIGMA = 32, 15, 256, 7.0
RUNS = 15


def show(title, ways, ours, results=lambda x: x, within=1e-3):
    "Compare what all ways give, and print their table."
    expected = results(ways[ours]())
    for name, way in ways.items():
        difference = (results(way()) - expected).abs().max().item()
        assert difference <= within, f"{name} differs by {difference}"
    seconds = measure(ways, RUNS, 3, torch.cuda.synchronize)
    print(f"\n### {title}\n\n{table(seconds, ours, dict.fromkeys(ways, 'new results'))}", flush=True)


def rotations(device):
    n, side, g = 256, 96, torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, side, side, generator=g).to(device)
    p = (side * (0.25 + 0.5 * torch.rand(n, K, 2, generator=g))).to(device)
    a = (torch.rand(n, generator=g) * 60 - 30).to(device)
    seen = torch.ones(n, K, dtype=torch.bool, device=device)

    def ours():
        out = warp({"image": x, "keypoints": p, "visible": seen}, rotation(a, (side / 2, side / 2)))
        return out["image"], out["keypoints"]

    def theirs():
        centre = torch.full((n, 2), (side - 1) / 2, device=device)
        m = kornia.geometry.get_rotation_matrix2d(centre, a, torch.ones(n, 2, device=device))
        moved = kornia.geometry.warp_affine(x, m, (side, side), align_corners=True)
        full = torch.cat([m, torch.tensor([0.0, 0.0, 1.0], device=device).expand(n, 1, 3)], 1)
        return moved, kornia.geometry.transform_points(full, p - 0.5) + 0.5

    ways = {"kpnb.geometry": ours, "kornia": theirs}
    show(f"Rotate {n} pictures of {side}×{side} with 15 points", ways, "kpnb.geometry", lambda r: r[1], 0.01)


def heatmaps(device):
    g = torch.Generator().manual_seed(0)
    points = (SIZE * (0.1 + 0.8 * torch.rand(N, K, 2, generator=g))).to(device)
    std, flat = torch.full((N * K, 2), SIGMA, device=device), points.view(-1, 2) - 0.5
    peak = lambda m: m.view(N * K, -1) / m.view(N * K, -1).amax(1, keepdim=True)
    ways = {
        "kpnb.heatmaps": lambda: gaussian_heatmaps(points, SIZE, SIGMA),
        "kornia": lambda: kornia.geometry.subpix.render_gaussian2d(flat, std, (SIZE, SIZE), False),
    }
    show(f"Draw {N}×{K} Gaussians of σ = {SIGMA:g} at {SIZE}×{SIZE}", ways, "kpnb.heatmaps", peak)
    maps = gaussian_heatmaps(points / 4, 64, 2.0) + 0.01 * torch.rand(N, K, 64, 64, generator=g).to(device)
    temperature = torch.tensor(1 / 50.0, device=device)
    ways = {
        "kpnb.heatmaps": lambda: decode_soft_argmax(maps, 1, 50.0),
        "kornia": lambda: kornia.geometry.subpix.spatial_soft_argmax2d(maps, temperature, False) + 0.5,
    }
    show(f"Soft-argmax of {N}×{K} maps of 64×64", ways, "kpnb.heatmaps", within=0.01)
    full = torch.rand(N, K, SIZE, SIZE, generator=g).to(device)
    seen = torch.ones(N, K, dtype=torch.bool, device=device)
    drawn = lambda: nn.functional.mse_loss(full, gaussian_heatmaps(points, SIZE, SIGMA))
    ways = {
        "nothing drawn": lambda: gaussian_mse(full, points, seen, (SIZE, SIZE), SIGMA),
        "drawn, then mse_loss": drawn,
    }
    show(f"MSE of {N}×{K} maps of {SIZE}×{SIZE} against Gaussians", ways, "nothing drawn")


def calibration(device):
    logits, target = (t.to(device) for t in sample_calibrated(64, classes=21, size=128, strength=3.0, seed=0))
    probs, error = logits.softmax(1), torchmetrics.classification.MulticlassCalibrationError
    theirs = lambda check: error(21, n_bins=10, validate_args=check).to(device)(probs, target).cpu()
    ways = {
        "kpnb Reliability": lambda: torch.as_tensor(ece(Reliability(10).update(probs, target).compute())),
        "torchmetrics": lambda: theirs(True),
        "torchmetrics, validate_args=False": lambda: theirs(False),
    }
    show("ECE of 64×21×128² probabilities, 10 bins", ways, "kpnb Reliability", lambda r: r.double(), 2e-5)


def random_batch(n, channels, h, w, device):
    g = torch.Generator().manual_seed(0)
    places = torch.rand(n, 1, 2, generator=g) * torch.tensor([w, h])
    return {
        "image": torch.rand(n, channels, h, w, generator=g).to(device),
        "keypoints": places.to(device),
        "visible": torch.ones(n, 1, dtype=torch.bool, device=device),
    }


def step(model, batch, loss, amp, last, tf32=False, compiled=False):
    "A function that makes one training step."
    layout = torch.channels_last if last else torch.contiguous_format
    model = copy.deepcopy(model).to(batch["image"].device, memory_format=layout).train()
    optimizer, image = make_optimizer(model, "adamw", 1e-4), batch["image"].contiguous(memory_format=layout)
    network = torch.compile(model) if compiled else model

    def once():
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            output = network(image)
        value = loss(output.float(), batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return once


WAYS = {
    "float32": (False, False),
    "float32, channels together": (False, True),
    "TF32": (False, False, True),
    "TF32, channels together": (False, True, True),
    "bfloat16": (True, False),
    "bfloat16, channels together": (True, True),
    "bfloat16, channels together, torch.compile": (True, True, False, True),
}


def steps(device):
    cases = {
        "NoseNet, soft-argmax head, 64×1×60×80": (
            NoseNet(size=(60, 80), head="soft-argmax"),
            random_batch(64, 1, 60, 80, device),
            point_mse,
        ),
        "ResNet18Heatmap, Gaussian MSE, 32×3×256×256": (
            ResNet18Heatmap(),
            random_batch(32, 3, 256, 256, device),
            HeatmapLoss("mse", 7.0),
        ),
    }
    for name, (model, batch, loss) in cases.items():
        ways = {way: step(model, batch, loss, *how) for way, how in WAYS.items()}
        seconds = measure(ways, RUNS, 4, torch.cuda.synchronize)
        amp, last = precision(model, device)
        chosen = ("bfloat16" if amp else "float32") + (", channels together" if last else "")
        fresh = dict.fromkeys(ways, "activations and gradients")
        print(
            f"\n### A training step of {name}\n\n{table(seconds, chosen, fresh)}\n\n`fit` chooses: {chosen}."
        )


def loop(device):
    "What `train_epoch` costs beside the bare steps: its checks of the loss wait for the device."
    torch.backends.cudnn.allow_tf32 = True
    batch = random_batch(64, 1, 60, 80, device)
    model = NoseNet(size=(60, 80), head="soft-argmax").to(device)
    optimizer = make_optimizer(model, "adamw", 1e-4)

    def bare():
        model.train()
        for _ in range(50):
            with torch.autocast("cuda", torch.bfloat16):
                output = model(batch["image"])
            value = point_mse(output.float(), batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    ways = {
        "train_epoch": lambda: train_epoch(model, [batch] * 50, optimizer, point_mse, amp=True),
        "the same steps, nothing looked at": bare,
    }
    seconds = measure(ways, RUNS, 3, torch.cuda.synchronize)
    fresh = dict.fromkeys(ways, "activations and gradients")
    print(
        f"\n### 50 steps of NoseNet, soft-argmax head, 64×1×60×80\n\n{table(seconds, 'train_epoch', fresh)}"
    )


def main():
    if not torch.cuda.is_available():
        print("No CUDA device here; nothing is measured")
        return
    device = torch.device("cuda")
    peers = {name: version(name) for name in ("kornia", "torchmetrics")}
    print(f"{torch.cuda.get_device_name()}, {machine(**peers)}")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    parts = {f.__name__: f for f in (rotations, heatmaps, calibration, loop, steps)}
    for name in sys.argv[1:] or parts:
        parts[name](device)


if __name__ == "__main__":
    main()
