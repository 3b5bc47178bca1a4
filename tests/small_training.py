"""A training of a second, on pictures of 8×12 pixels, for the tests of the modules around `fit`."""

import functools

import torch
from torch import nn

from kpnb.evaluation import point_mse
from kpnb.keypoints import KeypointDataset
from kpnb.training import fit


def dots(n=8, seed=0, points=1, **kw) -> KeypointDataset:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 255, (n, 1, 8, 12), generator=g).byte()
    return KeypointDataset(images, torch.rand(n, points, 2, generator=g) * 8, **kw)


def net(activation=nn.ReLU, points=1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(96, 8), activation(), nn.Linear(8, 2 * points), nn.Unflatten(1, (points, 2))
    )


def maps() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(1, 1, 3, padding=1)


def train(path=None, model=None, data=None, valid=None, **settings):
    "A tiny training; with a path, of a checkpoint."
    usual = dict(epochs=1, batch_size=4, device="cpu", progress=False, checkpoint=path)
    model = net() if model is None else model
    return fit(model, dots() if data is None else data, valid, **(usual | settings))


def once(output, batch):
    return point_mse(output, batch)


class Own:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, output, batch):
        return self.factor * point_mse(output, batch)


def sgd(momentum):
    return functools.partial(torch.optim.SGD, momentum=momentum)


def steps(factor):
    return lambda o, lr, n: torch.optim.lr_scheduler.LambdaLR(o, lambda i: factor)


class Lazy:
    "a source that is no KeypointDataset"

    def __init__(self, ds):
        self.ds = ds

    def __len__(self):
        return len(self.ds)

    def batches(self, *args, **kw):
        return self.ds.batches(*args, **kw)
