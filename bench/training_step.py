"""One training step in the four ways that `kpnb.training.fit` can take it.

A step is forward, loss, backward and AdamW; the ways are float32 or bfloat16 autocast,
the channels of a pixel apart or together in memory.

Run from the repository: `python bench/training_step.py`. The first way of each table is plain PyTorch; the
line under a table says which way `fit` chooses by itself (`fast="auto"`) for that network on this machine.
Each way has its own copy of the network, with the same weights and the same batch.
"""

import copy

import torch
from common import machine, measure, table
from torch import nn
from torchvision.models import resnet18

from kpnb.evaluation import point_mse
from kpnb.models import NoseNet
from kpnb.optimisation import conv_weights, make_optimizer, precision

WAYS = {
    f"{kind}, channels {where}": (amp, last)
    for amp, kind in ((False, "float32"), (True, "bfloat16"))
    for last, where in ((False, "apart"), (True, "together"))
}


class Regressor(nn.Module):
    "torchvision's ResNet-18 with one keypoint for an answer."

    def __init__(self):
        super().__init__()
        self.net = resnet18(num_classes=2)

    def forward(self, x):
        return self.net(x)[:, None]


def step(model, batch, amp, last):
    "A function that makes one step."
    layout = torch.channels_last if last else torch.contiguous_format
    model = copy.deepcopy(model).to(memory_format=layout).train()
    optimizer, image = make_optimizer(model, "adamw", 1e-4), batch["image"].contiguous(memory_format=layout)

    def once():
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            output = model(image)
        loss = point_mse(output.float(), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return once


def random_batch(n, channels, h, w):
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([w, h])
    return {
        "image": torch.rand(n, channels, h, w, generator=generator),
        "keypoints": torch.rand(n, 1, 2, generator=generator) * size,
        "visible": torch.ones(n, 1, dtype=torch.bool),
    }


def main():
    torch.manual_seed(0)
    small = NoseNet(size=(60, 80), channels=(8, 16, 32), head="soft-argmax")
    cases = {
        "NoseNet of half the width, soft-argmax head, 64×1×60×80": (small, random_batch(64, 1, 60, 80)),
        "NoseNet, fully connected head, 64×1×60×80": (NoseNet(size=(60, 80)), random_batch(64, 1, 60, 80)),
        "NoseNet, soft-argmax head, 64×1×60×80": (
            NoseNet(size=(60, 80), head="soft-argmax"),
            random_batch(64, 1, 60, 80),
        ),
        "ResNet-18 regression, 16×3×128×128": (Regressor(), random_batch(16, 3, 128, 128)),
    }
    print(machine())
    for name, (model, batch) in cases.items():
        seconds = measure({way: step(model, batch, *how) for way, how in WAYS.items()})
        chosen = next(way for way, how in WAYS.items() if how == precision(model, torch.device("cpu")))
        print(
            f"\n### {name}; {conv_weights(model):,} weights in convolutions\n\n"
            f"{table(seconds, chosen, dict.fromkeys(WAYS, 'activations and gradients'))}\n\n"
            f"`fit` chooses: {chosen}.",
            flush=True,
        )


if __name__ == "__main__":
    main()
