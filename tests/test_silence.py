"""Nothing wrong in silence, found by looking at all public functions, so that a new one cannot be forgotten.

1. What an invisible point holds (NaN, a placeholder, anything) changes no result.
2. Nothing mirrors points called left and right without knowing which belong together.

A new public function that takes `visible`, a batch or a data set is called with arguments made by the names
of its parameters (`by_name`). If they do not fit, give it a line in `CALLS` (other arguments, or a list for
several tries); `MAKE` makes the object of a method. Only a function for which the rule cannot hold belongs
in `EXCUSED`, with the reason.
"""

import ast
import functools
import importlib
import inspect
import math
import pkgutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import kpnb
from kpnb.annotate import Guesses
from kpnb.augment import Augment
from kpnb.backbones import CoarseToFine
from kpnb.codec import HeatmapCodec
from kpnb.collapse import Switches
from kpnb.core import seed_everything
from kpnb.crops import predict_mirrored
from kpnb.evaluation import predict
from kpnb.facial import ExerciseDataset, all_known, augmentation
from kpnb.gaussians import Gaussians
from kpnb.geometry import hflip_matrix, mirror_pairs, normalise, rotation, to_original, warp
from kpnb.heatmap_training import FlipAverage, train_heatmaps
from kpnb.keypoints import KeypointDataset
from kpnb.metrics import mae
from kpnb.models import NoseNet, conv_block
from kpnb.recipes.real_faces import fifteen_points, imm_points, lfpw_68
from kpnb.rounds import guess, learn
from kpnb.scenes import faces, pets
from kpnb.submission import submission_table, write_submission

N, K, SIDE = 12, 15, 32
PLACES = {"NaN": math.nan, "(0, 0)": 0.0, "(-1, -1)": -1.0, "1e9": 1e9}


# ---- what is public

# Functions that only other modules import, and that are held to the same rules.
UNLISTED = {"evaluation": ("decode_points", "visible_points")}


def public():
    """All public functions, classes and methods of kpnb by name, such as `keypoints.KeypointDataset.resize`.

    Those of `UNLISTED` are among them."""
    found = {}
    for module in pkgutil.walk_packages(kpnb.__path__, "kpnb."):
        if module.name.rpartition(".")[2].startswith("_"):
            continue
        m = importlib.import_module(module.name)
        unlisted = UNLISTED.get(module.name.removeprefix("kpnb."), ())
        for name in (*getattr(m, "__all__", ()), *unlisted):
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
    return p.annotation.__name__ if isinstance(p.annotation, type) else str(p.annotation)


def is_concerned(path):
    "Whether a function is told which points are visible."
    f, owner = PUBLIC[path]
    if owner is KeypointDataset:
        return True
    sets = {"batch", "ds", "data", "dataset", "train", "valid"}
    return any(
        p.name == "visible"
        or "KeypointDataset" in written(p)
        or (p.name in sets and written(p) not in ("str", "bytes"))
        for p in parameters(f).values()
    )


# ---- a small world whose invisible points hold anything


@functools.cache
def scene():
    "Faces whose points are all known, and which of them are said to be visible."
    ds = all_known(faces(N, SIDE, seed=3, gray=True, size_range=(0.3, 0.4), shift=0.1))
    seen = torch.rand(N, K, generator=torch.Generator().manual_seed(1)) < 0.7
    seen[:, [ds.keypoint_names.index(f"{side}_eye_outer_corner") for side in ("left", "right")]] = True
    seen[0] = False  # a picture without any visible point
    return ds, seen & ds.visible


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Points(nn.Module):
    "A small network that answers with points."

    def __init__(self):
        super().__init__()
        self.net = NoseNet(K, (SIDE, SIDE), channels=(4, 4, 4), hidden=8)

    def forward(self, x):
        return self.net(x)


class Maps(nn.Module):
    "A small network that answers with the logits of maps."

    def __init__(self, channels=K, stride=4):
        super().__init__()
        self.net = nn.Sequential(nn.AvgPool2d(stride), conv_block(1, 4), nn.Conv2d(4, channels, 1))

    def forward(self, x):
        return self.net(x)


class Spread(nn.Module):
    "A small network that answers with means and log-variances."

    def __init__(self, second=2):
        super().__init__()
        self.net, self.second = (
            nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(SIDE * SIDE, K * (2 + second))),
            second,
        )

    def forward(self, x):
        both = self.net(x).unflatten(1, (K, 2 + self.second))
        return both[..., :2], both[..., 2:]


def seeded(make, *args):
    seed_everything(0)
    return make(*args)


def spoil(points, seen, place):
    "The points with a place of `PLACES`, or all of them in turn, wherever they cannot be seen."
    if place is None:
        return points.clone()
    every = torch.tensor(list(PLACES.values()))[torch.arange(points.shape[1]) % len(PLACES)][:, None]
    return torch.where(seen[..., None], points, every if place == "all in turn" else PLACES[place])


class World:
    "The scene, with `place` at all invisible points; without a place, what they really hold."

    def __init__(self, place=None):
        ds, self.visible = scene()
        self.place = place
        self.points = self.hide(ds.keypoints)
        self.pred = self.hide(ds.keypoints + noise(N, K, 2))
        files = torch.tensor([[SIDE, SIDE]] * N)
        self.ds = replace(
            ds, keypoints=self.points, visible=self.visible, meta=ds.meta | {"original_size": files}
        )

    def hide(self, points):
        return spoil(points, self.visible, self.place)

    def other(self, ds):
        "Another data set with hidden points that hold the place."
        seen = ds.visible & (torch.rand(ds.visible.shape, generator=torch.Generator().manual_seed(2)) < 0.8)
        return replace(ds, keypoints=spoil(ds.keypoints, seen, self.place), visible=seen)

    def many(self):
        return self.other(all_known(faces(N, SIDE, seed=3, points=68, size_range=(0.3, 0.4), shift=0.1)))

    def colour(self):
        return replace(self.ds, images=self.ds.images.expand(-1, 3, -1, -1).clone())

    def nose(self):
        return self.colour().select(["nose_tip"])

    def pets(self):
        return self.other(pets(N, SIDE, seed=3))

    def batch(self):
        return next(self.ds.batches(N, device="cpu"))

    def maps(self):
        return noise(N, K, SIDE // 4, SIDE // 4)

    def spread(self):
        return noise(N, K, 2) / 3, noise(N, K, 2, seed=1)

    def gaussians(self):
        return Gaussians(self.pred, noise(N, K, 2, seed=1).abs() + 0.5)


def by_name(w, p):
    "An argument for a parameter, told by its name and what is written beside it."
    if written(p) == "Gaussians":
        return w.gaussians()
    if "KeypointDataset" in written(p) and "tuple" in written(p):
        return w.ds, w.ds
    made = {
        "pred": w.pred,
        "target": w.points,
        "points": w.points,
        "keypoints": w.points,
        "visible": w.visible,
        "batch": w.batch(),
        "output": normalise(noise(N, K, 2), SIDE),
        "size": (SIDE, SIDE),
        "seed": 0,
        "names": w.ds.keypoint_names,
        "values": w.hide(noise(N, K, 2)),
        "model": seeded(Points),
        "self": w.ds,
        "images": w.ds.images,
        "maps": w.maps(),
        "logits": w.maps(),
        "sigma": torch.full((N, K), 1.5),
        "stride": 4,
    }
    made |= dict.fromkeys(("ds", "data", "dataset", "train", "valid", "test", "pool", "faces", "held"), w.ds)
    if p.name not in made and "KeypointDataset" in written(p):
        return w.ds
    if p.name not in made:
        raise KeyError(p.name)
    return made[p.name]


QUICK = dict(epochs=1, progress=False, device="cpu")


def exercise(w):
    return ExerciseDataset(w.ds)


def boxes(w):
    return torch.tensor([[4.0, 2.0, 30.0, 31.0]]).repeat(N, 1)


def eyes(w):
    return w.ds.keypoint_names


def nets(w):
    return seeded(Maps)


def answers(w):
    return torch.rand(N, K, 2, generator=torch.Generator().manual_seed(0)) * SIDE


def table(w):
    return submission_table(answers(w))


def matrix(w):
    return hflip_matrix(SIDE)


def labels_to_labels(w):
    return {i: i % 3 for i in range(256)}


def classes(w):
    return seeded(nn.Conv2d, 1, len(w.ds.mask_names), 1)


def mean_error(model, train, held):
    pred = predict(model, held)
    return {"mae": mae(pred, held.keypoints, held.visible)}, pred


def shown(name):
    return lambda w: getattr(w, name)[1:]  # without the picture in which nothing is visible


def file(w):
    return Path(tempfile.mkdtemp()) / "file.csv"


# Arguments that `by_name` does not make; what is a function here makes them anew for each place.
CALLS = {
    "metrics.nme": [dict(norm="box"), dict(names=eyes), dict(norm="image", size=(SIDE, SIDE))],
    "metrics.picture_errors": [dict(norm="box"), dict(names=eyes)],
    "metrics.pck": [dict(norm="box"), dict(names=eyes)],
    "metrics.normaliser": [dict(norm="box"), dict(names=eyes)],
    "facial.evaluate_masked": dict(dataset=exercise),
    "recipes.real_faces.fifteen_points": QUICK,
    "recipes.real_faces.lfpw_fifteen": QUICK,
    "recipes.real_faces.imm_points": QUICK,
    "recipes.real_faces.fifteen_of_68": dict(ds=lambda w: w.many()),
    "recipes.better_faces.fifteen_score": dict(pred=lambda w: noise(N, 68, 2), held=lambda w: w.ds),
    "recipes.face_boxes.corners_of_boxes": dict(ds=lambda w: w.ds[1:]),
    "recipes.face_boxes.found_boxes": dict(finder=lambda w: seeded(CoarseToFine, 2)),
    "recipes.label_order.doubt_and_error": dict(
        g=lambda w: Guesses(noise(N, K, 2), None, {"spread": noise(N, K, seed=1).abs()}, w.ds.names)
    ),
    "recipes.two_networks.train_arm": dict(arm="hourglass", epochs=1),
    "recipes.robust_losses.spoil_labels": dict(how="thrown"),
    "crops.point_boxes": dict(points=shown("points"), visible=shown("visible")),
    "crops.crop_faces": dict(boxes=boxes, size=24),
    "recipes.real_faces.lfpw_68": QUICK | dict(data=lambda w: (w.many(), w.many())),
    "submission.submission_problems": dict(table=table),
    "submission.write_submission": dict(path=file, points=answers),
    "submission.read_submission": dict(path=lambda w: written_answers(w)),
    "diagnosis.diagnose": dict(data=lambda w: w.ds),
    "collapse.try_switches": dict(switches=lambda w: Switches()) | QUICK,
    "statistics.bootstrap": dict(data=np.arange(8.0)),
    "recipes.judging.Judged": dict(measures=None, pred=None, model=None, history=None),
    "recipes.judging.train_and_judge": QUICK
    | dict(network=lambda w: functools.partial(seeded, Points), judge=lambda w: mean_error),
    "conformal.point_scores": [
        dict(mean=lambda w: w.gaussians().mean),
        dict(mean=lambda w: w.gaussians().mean, std=lambda w: w.gaussians().std, box=True),
    ],
    "keypoints.concat": dict(parts=lambda w: [w.ds, w.ds]),
    "geometry.warp": [dict(matrix=matrix), dict(matrix=lambda w: rotation(20, (16, 16)))],
    "geometry.crop_to_box": dict(boxes=boxes),
    "keypoints.KeypointDataset": dict(images=lambda w: w.ds.images),
    "keypoints.KeypointDataset.__getitem__": dict(i=slice(2, 9)),
    "keypoints.KeypointDataset.to": dict(device="cpu"),
    "keypoints.KeypointDataset.select": dict(points=[3, 1, 2]),
    "keypoints.KeypointDataset.fold": dict(i=1),
    "keypoints.KeypointDataset.sample": dict(n=5),
    "keypoints.KeypointDataset.batches": [dict(batch_size=5), dict(batch_size=5, augment=Augment(flip=0.5))],
    "keypoints.KeypointDataset.resize": dict(size=20),
    "keypoints.KeypointDataset.warp": dict(matrix=rotation(20, (16, 16))),
    "heatmaps.binary_heatmaps": dict(stride=4),
    "heatmaps.gaussian_heatmaps": dict(sigma=2.0),
    "heatmaps.gaussian_factors": dict(sigma=2.0),
    "heatmap_losses.heatmap_mse": dict(
        maps=lambda w: w.maps().sigmoid(), target=lambda w: w.maps().sigmoid()
    ),
    "heatmap_losses.heatmap_bce": dict(target=lambda w: w.maps().sigmoid()),
    "heatmap_losses.heatmap_focal": dict(target=lambda w: w.maps().sigmoid()),
    "heatmap_losses.gaussian_mse": dict(maps=lambda w: w.maps().sigmoid(), sigma=2.0),
    "heatmap_losses.dsnt_loss": dict(sigma=2.0),
    "heatmap_losses.HeatmapLoss.__call__": dict(output=lambda w: w.maps()),
    "codec.Decode.__call__": dict(output=lambda w: w.maps()),
    "heatmap_training.error_report": {},
    "heatmap_training.train_heatmaps": QUICK | dict(model=nets),
    "recipes.real_pets.pet_noses": dict(
        network="hourglass", scales=(1.0,), data=lambda w: (w.nose(), w.nose())
    )
    | QUICK,
    "evaluation.predict": {},
    "evaluation.evaluate": {},
    "training.fit": QUICK,
    "evaluation.masked_mean": dict(values=lambda w: w.hide(noise(N, K, 2))),
    "likelihood.DistributionLoss.__call__": dict(output=lambda w: w.spread()),
    "likelihood.RootMeanSquare.__call__": dict(output=lambda w: w.spread()),
    "gaussians.decode_mean": dict(output=lambda w: w.spread()),
    "map_spread.MapCrossEntropy.__call__": dict(logits=lambda w: w.maps()),
    "uncertainty.train_uncertain": QUICK | dict(model=lambda w: seeded(Spread)),
    "gaussians.predict_gaussians": dict(model=lambda w: seeded(Spread)),
    "gaussians.predict_covariances": dict(model=lambda w: seeded(Spread, 3)),
    "ensembles.mc_dropout": dict(model=lambda w: seeded(Spread), n=2),
    "gaussians.prediction_table": dict(pred=lambda w: World().gaussians()),  # it shows all predictions
    "gaussians.write_predictions": dict(pred=lambda w: World().gaussians(), path=file),
    "masks.relabel": dict(new=labels_to_labels, names="abc"),
    "segmentation.few_labels": dict(ds=lambda w: w.pets()),
    "masks.preprocess": dict(size=16),
    "mask_losses.mask_loss": dict(output=lambda w: noise(N, len(w.ds.mask_names), SIDE, SIDE)),
    "mask_losses.focal_loss": dict(output=lambda w: noise(N, len(w.ds.mask_names), SIDE, SIDE)),
    "mask_losses.dice_loss": dict(output=lambda w: noise(N, len(w.ds.mask_names), SIDE, SIDE)),
    "mask_losses.pixel_hits": dict(output=lambda w: noise(N, len(w.ds.mask_names), SIDE, SIDE)),
    "mask_training.fit_masks": QUICK | dict(model=classes),
    "mask_training.predict_logits": dict(model=classes),
    "recipes.real_masks.recipe": QUICK | dict(model=classes),
    "recipes.real_masks.judge_masks": dict(model=classes, apart=None),
    "rounds.learn": dict(model=nets, steps=1, progress=False),
    "rounds.guess": dict(model=nets),
}

# How to make the object of a method, where the class needs arguments.
MAKE = {
    "gaussians.Gaussians": lambda w: w.gaussians(),
    "codec.HeatmapCodec": lambda w: HeatmapCodec(stride=4),
}

# Functions that answer with points: what they say of an invisible one is no result.
POINTS = {"geometry.to_original", "collapse.Switches.target"}

_MASKS = "takes masks and no points; trains a network of many layers, for which a test has no time"
# Functions for which the rule cannot hold, and why.
EXCUSED = {
    "history.Progress.put": "its data are what a notebook shows in one place",
    "facial.all_known": "is asked to count points that are not visible, so their places must be true",
    "facial.evaluate_model": "refuses samples with missing points, whatever they hold",
    "facial.evaluate_batched": "refuses samples with missing points, whatever they hold",
    "records.Record": "says where the points of a file are; load keeps what hidden ones hold",
    "datasets.describe": "counts how many places are missing or outside the picture",
    "plot.plot_keypoints": "draws a hollow ring at the place of a hidden point; see tests/test_plot.py",
    "sheets.plot_batch": "draws with plot_keypoints",
    "annotate.Annotator.propose": "needs a folder that is being labelled; it looks at answers, not at labels",
    "recipes.real_masks.source_networks": _MASKS,
    "recipes.real_masks.pets_trimap": _MASKS,
    "recipes.real_masks.camvid": _MASKS,
    "training.Recipe.fingerprint": "tells data sets apart by all they hold; too much only refuses to resume",
}


def written_answers(w):
    path = file(w)
    write_submission(path, answers(w), w.ds)
    return path


# ---- calling and comparing


def arguments_of(path, given, w):
    "What to call a public function with; a KeyError names the parameter for which nothing is known."
    f, owner = PUBLIC[path]
    arguments = {}
    for name, p in parameters(f).items():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or name in given:
            continue
        if name == "self":
            arguments[name] = made_object(path.rpartition(".")[0], owner, w)
        elif p.default is p.empty or name == "visible" or "KeypointDataset" in written(p):
            arguments[name] = by_name(w, p)
    for name, value in given.items():
        arguments[name] = value(w) if inspect.isfunction(value) else value
    return arguments


def call(path, given, w):
    "Call a public function in a world."
    arguments = arguments_of(path, given, w)
    seed_everything(0)
    result = PUBLIC[path][0](**arguments)
    if inspect.isgenerator(result):
        return list(result)
    return Path(arguments["path"]) if result is None and "path" in arguments else result


def made_object(path, cls, w):
    if path in MAKE:
        return MAKE[path](w)
    return w.ds if cls is KeypointDataset else cls()


def differs(a, b, where="the result", points=False):
    "Where two results differ, in words; None if they are the same."
    if type(a) is not type(b):
        return f"{where} is {a!r} and {b!r}"
    if isinstance(a, KeypointDataset):
        return differs(vars(a), vars(b), where)
    if isinstance(a, Mapping):
        a, b = ({k: v for k, v in d.items() if "seconds" not in str(k)} for d in (a, b))
        if a.keys() != b.keys():
            return f"{where} has {list(a)} and {list(b)}"
        if "keypoints" in a and "visible" in a:
            a, b = (
                d | {"keypoints": torch.where(d["visible"][..., None], d["keypoints"], 0.0)} for d in (a, b)
            )
        return first_of(differs(a[k], b[k], f"{where}[{k!r}]") for k in a)
    if isinstance(a, (list, tuple)):
        return (
            f"{where} is of length {len(a)} and {len(b)}"
            if len(a) != len(b)
            else first_of(differs(x, y, f"{where}[{i}]", points) for i, (x, y) in enumerate(zip(a, b)))
        )
    if isinstance(a, (Tensor, np.ndarray, float)):
        a, b = (torch.as_tensor(x).double() for x in (a, b))
        if points:
            a, b = (x[scene()[1]] for x in (a, b))
        same = a.shape == b.shape and torch.allclose(a, b, 1e-5, 1e-7, equal_nan=True)
        return None if same else f"{where} is {brief(a)} and {brief(b)}"
    if isinstance(a, pd.DataFrame):
        return differs({k: list(v) for k, v in a.items()}, {k: list(v) for k, v in b.items()}, where)
    if isinstance(a, Path):
        return differs(a.read_bytes(), b.read_bytes(), where)
    if isinstance(a, nn.Module):
        return differs(dict(a.state_dict()), dict(b.state_dict()), where)
    if hasattr(a, "__dict__") and not callable(a):
        return differs(vars(a), vars(b), where)
    return None if callable(a) or a == b else f"{where} is {a!r} and {b!r}"


def first_of(found):
    return next((x for x in found if x), None)


def brief(x):
    return f"{x.flatten()[:4].tolist()}{'...' if x.numel() > 4 else ''}"


CONCERNED = sorted(path for path in PUBLIC if is_concerned(path))
SLOW = {
    "recipes.real_pets.pet_noses",
    "recipes.real_masks.recipe",
    "recipes.real_faces.fifteen_points",
    "recipes.real_faces.lfpw_fifteen",
    "recipes.real_faces.imm_points",
    "recipes.real_faces.lfpw_68",
}  # tried once, with all places in turn


@pytest.mark.parametrize("path", [p for p in CONCERNED if p not in EXCUSED])
def test_what_an_invisible_point_holds_changes_no_result(path):
    variants = CALLS.get(path, {})
    for given in variants if isinstance(variants, list) else [variants]:
        try:
            expected = call(path, given, World())
        except Exception as e:
            pytest.fail(
                f"kpnb.{path} takes `visible`, a batch or a data set, and this test cannot call it: "
                f"{type(e).__name__}: {e}. Tell it in CALLS (or MAKE) of {Path(__file__).name} with which "
                "arguments, so that it can be tried with invisible points that hold anything"
            )
        for place in ["all in turn"] if path in SLOW else PLACES:
            try:
                found = call(path, given, World(place))
            except Exception as e:
                pytest.fail(f"kpnb.{path} with invisible points at {place}: {type(e).__name__}: {e}")
            wrong = differs(expected, found, points=path in POINTS)
            assert wrong is None, (
                f"kpnb.{path} with invisible points at their true places and at {place}: {wrong}"
            )


def test_every_excuse_and_every_call_belongs_to_a_function():
    known = {*CONCERNED}
    assert not {*EXCUSED, *POINTS, *CALLS} - known
    assert not {*EXCUSED} & {*CALLS}
    assert all(len(reason) > 20 for reason in EXCUSED.values())


# ---- mirrors


def sided(pairs):
    "Faces whose names say left and right, with or without pairs."
    return replace(scene()[0], pairs=scene()[0].pairs if pairs else ())


def augmented(change):
    def mirror(ds):
        return list(ds.batches(N, augment=change, device="cpu"))

    return mirror


def flipped(ds):
    return warp(next(ds.batches(N, device="cpu")), hflip_matrix(SIDE))


def averaged(ds):
    return FlipAverage(seeded(Maps), ds)(ds.images[:2] / 255)


def rgb(ds):
    return replace(ds, images=ds.images.expand(-1, 3, -1, -1).clone())


# How a function mirrors a data set. Those with a parameter `flip` or `pairs`, or a name that says so, must be
# here or in `NO_MIRROR`; those that mirror without saying so in a parameter are added by hand.
MIRRORS = {
    "augment.Augment": augmented(Augment(flip=0.5)),
    "geometry.warp": flipped,
    "geometry.mirror_pairs": lambda ds: mirror_pairs(ds.keypoint_names, ds.pairs),
    "keypoints.KeypointDataset.batches": augmented(Augment(flip=1.0, pairs=())),
    "keypoints.KeypointDataset.warp": lambda ds: ds.warp(hflip_matrix(SIDE)),
    "facial.augmentation": augmented(augmentation()),
    "recipes.real_faces.fifteen_points": lambda ds: fifteen_points(data=(ds, ds), **QUICK),
    "recipes.real_faces.imm_points": lambda ds: imm_points(data=(ds, ds), **QUICK),
    "crops.predict_mirrored": lambda ds: predict_mirrored(seeded(Points), ds),
    "recipes.real_faces.lfpw_68": lambda ds: lfpw_68(data=(rgb(ds), rgb(ds)), **QUICK),
    "heatmap_training.FlipAverage": averaged,
    "heatmap_training.train_heatmaps": lambda ds: train_heatmaps(seeded(Maps), ds, ds, **QUICK),
    "rounds.learn": lambda ds: learn(seeded(Maps), ds, steps=1, progress=False),
    "rounds.guess": lambda ds: guess(seeded(Maps), ds),
}
NO_MIRROR = {
    "statistics.compare": "pairs are measurements with the same seed",
    "keypoints.KeypointDataset": "holds pairs, and mirrors nothing",
    "augment.random_affine": "gives a matrix and knows no points; warp refuses it",
    "geometry.hflip_matrix": "gives a matrix and knows no points; warp refuses it",
    "geometry.swap_order": "is asked for this very order, and knows no names",
    "plot.plot_keypoints": "takes pairs for colours, and mirrors nothing",
    "sheets.plot_batch": "takes pairs for colours, and mirrors nothing",
    "stage.Scene.mirrored": "builds a new scene, whose left and right are true by construction",
    "datasets.Source": "says what a data set is; load gives its pairs to the data set",
    "own_data.register": "says what a data set is; learn and guess refuse it without pairs",
    "rounds.one_round": "registers, then calls learn and guess, which are tried here",
}


def says_mirror(path):
    return any(word in path.rpartition(".")[2].lower() for word in ("flip", "mirror")) or any(
        name in ("flip", "pairs") for name in parameters(PUBLIC[path][0])
    )


def test_every_function_that_can_mirror_is_tried_or_excused():
    forgotten = [path for path in PUBLIC if says_mirror(path) and path not in {*MIRRORS, *NO_MIRROR}]
    methods = [path for path in forgotten if path.rpartition(".")[0] in {*MIRRORS, *NO_MIRROR}]
    forgotten = [path for path in forgotten if path not in methods]
    assert not forgotten, (
        f"{', '.join(forgotten)} can mirror or take pairs, and are tried nowhere: add them to MIRRORS or, "
        f"with a reason, to NO_MIRROR of {Path(__file__).name}"
    )
    assert not {*MIRRORS, *NO_MIRROR} - {*PUBLIC} - {"keypoints.KeypointDataset.warp"}
    assert all(len(reason) > 20 for reason in NO_MIRROR.values())


@pytest.mark.parametrize("path", MIRRORS)
def test_nothing_mirrors_left_and_right_without_pairs(path):
    with pytest.raises(ValueError, match="left|pairs"):
        MIRRORS[path](sided(pairs=False))


# Not these: one is given pairs that contradict the data set's, the names of the other's points say no side.
@pytest.mark.parametrize(
    "path", sorted({*MIRRORS} - {"keypoints.KeypointDataset.batches", "recipes.real_faces.lfpw_68"})
)
def test_what_refuses_a_mirror_without_pairs_works_with_them(path):
    MIRRORS[path](sided(pairs=True))


def test_names_without_sides_need_no_pairs():
    plain = replace(sided(pairs=False), keypoint_names=[f"point {k}" for k in range(K)])
    for path in ("augment.Augment", "geometry.warp", "facial.augmentation", "crops.predict_mirrored"):
        MIRRORS[path](plain)


def test_the_augmentation_of_the_lessons_exchanges_the_sides_of_the_data_set():
    ds = sided(pairs=True)
    still = augmentation(degrees=0.0, scale=(1.0, 1.0), shift=0.0, light=0.0)
    batch = next(ds.batches(N, augment=still, device="cpu"))
    left, right = ds.pairs[0]
    mirrored = (batch["keypoints"][:, left] - ds.keypoints[:, left]).norm(dim=-1) > 1e-3
    assert 0 < mirrored.sum() < N
    expected = ds.keypoints[:, right] * torch.tensor([-1.0, 1.0]) + torch.tensor([SIDE, 0.0])
    assert torch.allclose(batch["keypoints"][mirrored, left], expected[mirrored], atol=1e-3)
    contrary = augmentation(pairs=[(0, 3)])
    with pytest.raises(ValueError, match="those of the data set are"):
        next(ds.batches(N, augment=contrary, device="cpu"))


# ---- the way back to the file


def from_data_set_to_data_set():
    "All public functions and methods that make a data set of a data set, by name."
    found = {}
    for path, (thing, owner) in public().items():
        try:
            signature = inspect.signature(thing)
        except (TypeError, ValueError):
            continue
        takes = [str(p.annotation) for p in signature.parameters.values()]
        gives = str(signature.return_annotation)
        if "KeypointDataset" in gives and (
            owner is KeypointDataset or any("KeypointDataset" in t for t in takes)
        ):
            found[path] = thing
    return found


LEAD_BACK = {  # name -> data set -> data set(s); the names are those that the introspection finds
    "keypoints.concat": lambda f, ds: f([ds[5:], ds[:5]]),
    "keypoints.KeypointDataset.to": lambda f, ds: f(ds, "cpu"),
    "keypoints.KeypointDataset.gray": lambda f, ds: f(ds),
    "keypoints.KeypointDataset.select": lambda f, ds: f(ds, range(ds.keypoints.shape[1])),
    "keypoints.KeypointDataset.split": lambda f, ds: f(ds),
    "keypoints.KeypointDataset.fold": lambda f, ds: f(ds, 1),
    "keypoints.KeypointDataset.sample": lambda f, ds: f(ds, 6),
    "keypoints.KeypointDataset.resize": lambda f, ds: f(ds, (40, 24)),
    "keypoints.KeypointDataset.warp": lambda f, ds: f(ds, rotation(33.0, (16, 16)), size=(30, 50)),
    "facial.all_known": lambda f, ds: f(ds),
    "masks.relabel": lambda f, ds: f(ds, dict.fromkeys(range(20), 0), ["all"]),
    "segmentation.few_labels": lambda f, ds: f(pets(6, SIDE, seed=3)),
    "masks.preprocess": lambda f, ds: f(ds.resize((48, 36)), 20),
    "crops.crop_faces": lambda f, ds: f(ds, torch.tensor([[3.0, 2.0, 28.0, 30.0]]).expand(len(ds), 4), 40),
    "label_noise.noisy_labels": lambda f, ds: f(ds, torch.ones(ds.visible.shape)),
    "recipes.real_faces.fifteen_of_68": lambda f, ds: f(faces(4, SIDE, points=68, seed=1)),
    "recipes.augmentations.sides_forgotten": lambda f, ds: f(ds),
    "recipes.face_boxes.corners_of_boxes": lambda f, ds: f(ds),
    "recipes.robust_losses.spoil_labels": lambda f, ds: f(ds, "thrown", 0),
}
OTHER_POINTS = (
    "segmentation.few_labels",
    "recipes.real_faces.fifteen_of_68",
    "recipes.face_boxes.corners_of_boxes",
)  # what comes out has other points, or comes from other pictures


def test_everything_that_makes_a_data_set_of_a_data_set_is_tried():
    found = set(from_data_set_to_data_set())
    assert found <= set(LEAD_BACK), f"give {sorted(found - set(LEAD_BACK))} a line in LEAD_BACK"


@pytest.mark.parametrize("name", sorted(LEAD_BACK))
def test_what_comes_out_leads_back_to_the_file(name):
    thing = from_data_set_to_data_set().get(name) or public()[name][0]
    ds = faces(N, SIDE, seed=2, points=K)
    ds.to_file = (
        torch.eye(3, dtype=torch.float64).repeat(N, 1, 1)
        * torch.tensor([9.0, 7.0, 1.0], dtype=torch.float64)[:, None]
    )
    ds.to_file[:, :2, 2] = torch.arange(N)[:, None] * 10.0
    made = LEAD_BACK[name](thing, ds)
    for out in made if isinstance(made, tuple) else (made,):
        if name.startswith(OTHER_POINTS):
            assert not torch.equal(out.to_file, torch.zeros_like(out.to_file)) and out.to_file.shape == (
                len(out),
                3,
                3,
            )
            continue
        for i, sample in enumerate(out.names):
            j = ds.names.index(sample)
            if out.size == ds.size:  # the pictures were not moved, whatever became of the labels
                assert torch.equal(out.to_file[i], ds.to_file[j]), name
                continue
            both = out.visible[i] & ds.visible[j]
            back, truth = to_original(out[[i]])[0, both], to_original(ds[[j]])[0, both]
            assert len(back) and (back - truth).abs().max() < 0.05, name  # of a file of 288 pixels


# ---- files are written in one step


WRITERS = {  # who may make, replace or rename a file, and why it is whole all the same
    "core.write_safely": "the one way: a name of its own for each write, then one step",
    "core.locked": "the name of a lock's holder, for a message",
    "journal.append": "the journal: a line is added at the end, under the lock, and a torn one is put aside",
    "label_file.LabelFile._put_aside": "a folder in the place of a file gets another name",
    "downloads._receive": "the beginning of a download, which gets its name when it is right",
    "downloads._attempt": "its name",
    "archives._make": "a member of an archive, in a folder of its own",
    "archives._move_in": "the unpacked folder gets its name",
    "archives.unpack_by_torchvision": "likewise",
}


def opens_for_writing(node):
    "Whether a call makes, replaces or renames a file by its name."
    attribute = isinstance(node.func, ast.Attribute)
    name = node.func.attr if attribute else getattr(node.func, "id", "")
    owner = getattr(node.func.value, "id", "") if attribute else ""
    if name == "open" and not attribute:
        modes = [a for a in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]]
        return any(
            set("wax+") & set(getattr(c, "value", "") or "")
            for m in modes
            for c in ast.walk(m)
            if isinstance(c, ast.Constant)
        )
    if name in ("write_text", "write_bytes"):
        return attribute
    if name == "rename":
        return attribute and not any(
            k.arg in ("columns", "index") for k in node.keywords
        )  # that is a table's
    if name in ("replace", "copy2", "copyfile", "move"):
        return owner in ("os", "shutil")
    return name == "save" and owner == "torch" and getattr(node.args[1], "id", "") != "buffer"


def test_files_are_written_in_one_step_or_with_a_reason():
    found = set()
    for path in Path(kpnb.__file__).parent.rglob("*.py"):
        module = ".".join(path.relative_to(Path(kpnb.__file__).parent).with_suffix("").parts)
        for f in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(f, ast.FunctionDef):
                first = f.args.args[0] if f.args.args else None
                owner = (
                    f"{first.annotation.id}."
                    if first is not None and first.arg == "self" and isinstance(first.annotation, ast.Name)
                    else ""
                )
                if any(isinstance(n, ast.Call) and opens_for_writing(n) for n in ast.walk(f)):
                    found.add(f"{module}.{owner}{f.name}")
    assert found == set(WRITERS), f"new: {sorted(found - set(WRITERS))}, gone: {sorted(set(WRITERS) - found)}"
