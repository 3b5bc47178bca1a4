"""Nothing wrong in silence, found by looking at all public functions, so that a new one cannot be forgotten.

1. What an invisible point holds (NaN, a placeholder, anything) changes no result.
2. Nothing mirrors points called left and right without knowing which belong together.

A new public function that takes `visible`, a batch or a data set is called with arguments made by the names of its
parameters (`by_name`). If they do not fit, give it a line in `CALLS` (other arguments, or several lines to try several
settings); `MAKE` makes the object of a method. Only a function for which the rule cannot hold belongs in `EXCUSED`,
with the reason.
"""

import functools
import importlib
import inspect
import math
import pkgutil
from dataclasses import replace

import torch
from torch import nn

import kpnb
from kpnb.core import seed_everything
from kpnb.geometry import KeypointDataset, normalise
from kpnb.heatmaps import gaussian_heatmaps
from kpnb.metrics import all_known
from kpnb.models import NoseNet, conv_block
from kpnb.scenes import faces
from kpnb.uncertainty import Gaussians

N, K, SIDE = 12, 15, 32
PLACES = {"NaN": math.nan, "(0, 0)": 0.0, "(-1, -1)": -1.0, "1e9": 1e9}


# ---------------------------------------------------------------- what is public

def public():
    "All public functions, classes and methods of kpnb by name, such as `geometry.KeypointDataset.resize`."
    found = {}
    for module in pkgutil.walk_packages(kpnb.__path__, "kpnb."):
        if module.name.rpartition(".")[2].startswith("_"):
            continue
        m = importlib.import_module(module.name)
        for name in getattr(m, "__all__", ()):
            thing = getattr(m, name)
            if getattr(thing, "__module__", None) != m.__name__ or not callable(thing):
                continue
            path = f"{m.__name__.removeprefix('kpnb.')}.{name}"
            found[path] = (thing, None)
            for method, f in vars(thing).items() if inspect.isclass(thing) else ():
                own = inspect.isfunction(f) and f.__qualname__.startswith(f"{thing.__name__}.")
                if own and (not method.startswith("_") or method in ("__call__", "__getitem__")):
                    found[f"{path}.{method}"] = (f, thing)
    return found


PUBLIC = public()


def parameters(f):
    try:
        return inspect.signature(f).parameters
    except (ValueError, TypeError):
        return {}


def written(p):
    "A parameter's annotation as text."
    return getattr(p.annotation, "__name__", None) or str(p.annotation)


def is_concerned(path):
    "Whether a function is told which points are visible."
    f, owner = PUBLIC[path]
    if owner is KeypointDataset:
        return True
    sets = {"batch", "ds", "data", "dataset", "train", "valid"}
    return any(p.name == "visible" or "KeypointDataset" in written(p) or (p.name in sets and written(p) not in ("str", "bytes"))
               for p in parameters(f).values())


# ---------------------------------------------------------------- a small world whose invisible points hold anything

@functools.cache
def scene():
    "Faces whose points are all known, and which of them are said to be visible."
    ds = all_known(faces(N, SIDE, seed=3, gray=True, size_range=(0.3, 0.4), shift=0.1))
    seen = torch.rand(N, K, generator=torch.Generator().manual_seed(1)) < 0.7
    seen[:, [ds.keypoint_names.index(f"{side}_eye_outer_corner") for side in ("left", "right")]] = True
    seen[0] = False # a picture without any visible point
    return ds, seen & ds.visible


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Points(nn.Module):
    "A small network that answers with points."

    def __init__(self):
        super().__init__()
        self.net = NoseNet(K, (SIDE, SIDE), channels=(4, 4, 4), hidden=8)

    def forward(self, x): return self.net(x)


class Maps(nn.Module):
    "A small network that answers with the logits of maps."

    def __init__(self, channels=K, stride=4):
        super().__init__()
        self.net = nn.Sequential(nn.AvgPool2d(stride), conv_block(1, 4), nn.Conv2d(4, channels, 1))

    def forward(self, x): return self.net(x)


class Spread(nn.Module):
    "A small network that answers with means and log-variances."

    def __init__(self, second=2):
        super().__init__()
        self.net, self.second = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(SIDE * SIDE, K * (2 + second))), second

    def forward(self, x):
        both = self.net(x).unflatten(1, (K, 2 + self.second))
        return both[..., :2], both[..., 2:]


def seeded(make, *args):
    seed_everything(0)
    return make(*args)


class World:
    "The scene, with `place` at all invisible points; without a place, what they really hold."

    def __init__(self, place=None):
        ds, self.visible = scene()
        self.place = place
        self.points = self.hide(ds.keypoints)
        self.pred = self.hide(ds.keypoints + noise(N, K, 2))
        self.ds = replace(ds, keypoints=self.points, visible=self.visible)

    def hide(self, points):
        return points.clone() if self.place is None else torch.where(self.visible[..., None], points, self.place)

    def batch(self): return next(self.ds.batches(N, device="cpu"))

    def maps(self): return noise(N, K, SIDE // 4, SIDE // 4)

    def spread(self): return noise(N, K, 2) / 3, noise(N, K, 2, seed=1)

    def gaussians(self): return Gaussians(self.pred, noise(N, K, 2, seed=1).abs() + 0.5)


def by_name(w, p):
    "An argument for a parameter, told by its name and what is written beside it."
    if written(p) == "Gaussians":
        return w.gaussians()
    if "KeypointDataset" in written(p) and "tuple" in written(p):
        return w.ds, w.ds
    made = {"pred": w.pred, "target": w.points, "points": w.points, "keypoints": w.points, "visible": w.visible,
            "batch": w.batch(), "output": normalise(noise(N, K, 2), SIDE), "size": (SIDE, SIDE), "seed": 0,
            "names": w.ds.keypoint_names, "values": w.hide(noise(N, K, 2)), "model": seeded(Points), "self": w.ds,
            "images": w.ds.images, "maps": w.maps(), "logits": w.maps(), "sigma": torch.full((N, K), 1.5)}
    made |= dict.fromkeys(("ds", "data", "dataset", "train", "valid", "test", "pool", "faces", "held"), w.ds)
    if p.name not in made:
        raise KeyError(p.name)
    return made[p.name]


TRAIN = dict(epochs=1, progress=False, device="cpu", amp=False, channels_last=False)
RECIPE = dict(epochs=1, progress=False, device="cpu", fast=False)
TARGETS = dict(points=lambda w: w.points, visible=lambda w: w.visible)


def sharp(w): return gaussian_heatmaps(w.points, (SIDE, SIDE), 2.0, 4, w.visible)


def boxes(w): return torch.tensor([[4.0, 2.0, 30.0, 31.0]]).repeat(N, 1)


# Arguments that `by_name` does not make. A function of the world makes them anew for each place.
CALLS = {
    "metrics.nme": [dict(norm="box"), dict(names=lambda w: w.ds.keypoint_names), dict(norm="image", size=(SIDE, SIDE))],
    "metrics.picture_errors": [dict(norm="box"), dict(names=lambda w: w.ds.keypoint_names)],
    "metrics.pck": [dict(norm="box"), dict(names=lambda w: w.ds.keypoint_names)],
    "metrics.normaliser": [dict(norm="box"), dict(names=lambda w: w.ds.keypoint_names)],
    "metrics.evaluate_model": dict(dataset=lambda w: exercise(w)),
    "metrics.evaluate_batched": dict(dataset=lambda w: exercise(w)),
    "metrics.evaluate_masked": dict(dataset=lambda w: exercise(w)),
    "submission.crop_faces": dict(boxes=boxes, size=24),
}


def exercise(w): return importlib.import_module("kpnb.metrics").ExerciseDataset(w.ds)


# How to make the object of a method, where the class needs arguments.
MAKE = {}

# Functions that answer with points: what they say of an invisible one is no result.
ANSWERS_WITH_POINTS = set()

# Functions for which the rule cannot hold, and why.
EXCUSED = {}
