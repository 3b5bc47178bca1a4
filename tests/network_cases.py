"""Pictures and networks that the tests of models and backbones share."""

import torch

from kpnb.core import make_generator


class Constant(torch.nn.Module):
    "The same answer for every picture."

    def __init__(self, points):
        super().__init__()
        self.points = torch.nn.Parameter(points)

    def forward(self, x):
        return self.points.expand(len(x), -1, -1)


def pictures(n=2, channels=3, h=64, w=96, seed=0):
    return torch.rand(n, channels, h, w, generator=make_generator(seed))


def count(module):
    return sum(p.numel() for p in module.parameters())


def randomised(net, seed=0):
    "The network in eval mode, with running statistics as different from the initial ones as after training."
    g = make_generator(seed)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1, generator=g)
            m.running_var.uniform_(0.5, 1.5, generator=g)
            with torch.no_grad():
                m.weight.uniform_(0.5, 1.5, generator=g)
                m.bias.normal_(0, 0.1, generator=g)
    return net.eval()
