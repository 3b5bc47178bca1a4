"""Logits and labels that the tests of confidences, scaling and calibration share."""

import torch


def case(seed=0, n=3, classes=4, size=8, void=True, kind=torch.float32):
    "Logits, some of them void, and labels that are often right."
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, size, size, generator=g)
    target = torch.where(
        torch.rand(n, size, size, generator=g) < 0.6,
        logits.argmax(1),
        torch.randint(0, classes, (n, size, size), generator=g),
    ).byte()
    if void:
        target[:, :2] = 255
    return logits.to(kind), target
