"""The networks for heatmaps: a training step and a forward pass, variants side by side.

A training step is forward, loss, backward and AdamW.

Run from the repository: `python bench/heatmap_networks.py` (`--runs 1` to see that it works). Four tables:

1. and 2. a training step on 16×3×128×128 in the four ways that `kpnb.training.fit` can take it,
   the first of them plain PyTorch: ResNet18Heatmap, and the network with depthwise convolutions;
3. a training step of each variant on 16×3×128×128, all in the way that `fit` chooses by itself;
4. a forward pass of each variant for one picture of 256×256, float32, without gradients.

A step goes through the squared error to ready-made Gaussian targets, so that only the network is measured.
"""

import argparse
import copy

import torch
from common import machine, measure, table

from kpnb.backbones import multiply_adds
from kpnb.models import HeatmapNet, ResNet18Heatmap
from kpnb.optimisation import make_optimizer, precision

WAYS = {
    f"{kind}, channels {where}": (amp, last)
    for amp, kind in ((False, "float32"), (True, "bfloat16"))
    for last, where in ((False, "apart"), (True, "together"))
}
SOURCE, LITE = "ResNet18Heatmap", "efficientnet_lite0, top-down, stride 4"
VARIANTS = {
    SOURCE: ResNet18Heatmap,
    "half-pixel upsampling": lambda: ResNet18Heatmap(align_corners=False),
    "stride 4": lambda: ResNet18Heatmap(stride=4),
    "top-down, stride 4": lambda: HeatmapNet(decoder="top-down", stride=4),
    "resnet34, stride 4": lambda: HeatmapNet(backbone="resnet34", stride=4),
    "resnet50, stride 4": lambda: HeatmapNet(backbone="resnet50", stride=4),
    "efficientnet_lite0, stride 4": lambda: HeatmapNet(backbone="efficientnet_lite0", stride=4),
    LITE: lambda: HeatmapNet(backbone="efficientnet_lite0", decoder="top-down", stride=4),
}


def gaussians(n, side, stride):
    "Targets with a peak somewhere in each, of 8 pixels' width."
    generator = torch.Generator().manual_seed(1)
    at = torch.arange(side // stride) * stride + stride / 2
    x, y = (torch.exp(-((at - side * torch.rand(n, 1, generator=generator)) ** 2) / 128) for _ in range(2))
    return (y[:, :, None] * x[:, None, :])[:, None]


def step(model, images, amp, last):
    "A function that makes one training step."
    layout = torch.channels_last if last else torch.contiguous_format
    model = copy.deepcopy(model).to(memory_format=layout).train()
    optimizer, images = make_optimizer(model, "adamw", 1e-4), images.contiguous(memory_format=layout)
    target = gaussians(len(images), images.shape[-1], model.stride)

    def once():
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            output = model(images)
        loss = (output.float() - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return once


def forward(model, images):
    "A function that makes one forward pass."
    model = copy.deepcopy(model).eval()

    def once():
        with torch.no_grad():
            model(images)

    return once


def show(title, ways, ours, runs, allocates):
    "Measure, and print a table."
    seconds = measure(ways, runs=runs, warmup=2 if runs > 1 else 1)
    if runs == 1:
        seconds = {name: values * 2 for name, values in seconds.items()}  # quartiles need two
    print(f"\n### {title}\n\n{table(seconds, ours, dict.fromkeys(ways, allocates))}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    models = {name: make() for name, make in VARIANTS.items()}
    images = torch.rand(16, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    chosen = precision(models[SOURCE], torch.device("cpu"))
    ours = next(way for way, how in WAYS.items() if how == chosen)
    print(machine())
    for n in (SOURCE, LITE):
        show(
            f"{n}, training step, 16×3×128×128",
            {way: step(models[n], images, *how) for way, how in WAYS.items()},
            ours,
            args.runs,
            "activations and gradients",
        )
        print(f"\n`fit` chooses: {ours}.")
    name = lambda n: (
        f"{n} ({sum(p.numel() for p in models[n].parameters()) / 1e6:.1f} M parameters, "
        f"{multiply_adds(models[n]) / 1e9:.2f} G multiply-adds at 256×256)"
    )
    show(
        f"Variants, training step, 16×3×128×128, {ours}",
        {name(n): step(m, images, *chosen) for n, m in models.items()},
        name(SOURCE),
        args.runs,
        "activations and gradients",
    )
    picture = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    show(
        "Variants, forward pass, 1×3×256×256, float32",
        {name(n): forward(m, picture) for n, m in models.items()},
        name(SOURCE),
        args.runs,
        "activations",
    )


if __name__ == "__main__":
    main()
