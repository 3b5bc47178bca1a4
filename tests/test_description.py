"""A training that goes on is the training that was stopped: whatever decides its result is compared."""

import functools
import math
import random
import warnings

import pytest
import torch
from small_training import Lazy, Own, dots, maps, net, once, sgd, steps, train
from torch import nn

from kpnb.augment import Augment
from kpnb.evaluation import point_mse
from kpnb.heatmap_losses import HeatmapLoss
from kpnb.keypoints import KeypointDataset
from kpnb.map_spread import MapCrossEntropy


def scaled(factor):
    return lambda output, batch: factor * point_mse(output, batch)


def scaled_by_first(factors):
    return lambda output, batch: factors[0] * point_mse(output, batch)


def with_default(factor):
    def loss(output, batch, factor=factor):
        return factor * point_mse(output, batch)

    return loss


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, output, batch):
        return self.factor * point_mse(output, batch)


def twice(output, batch):
    return point_mse(output, batch) * 2


def weigh(values, factor):
    return values * factor


def times(amount):
    return lambda x: x * amount


def brighter(amount):
    return Augment(degrees=0, scale=(1, 1), shift=0, colour=times(amount))


def turned(degrees, colour=None):
    return Augment(degrees=degrees, scale=(1, 1), shift=0, colour=colour or torch.clone)


def wide(amount):
    return lambda batch: amount


def jitter(amount):
    from torchvision.transforms import v2

    return Augment(
        degrees=0,
        scale=(1, 1),
        shift=0,
        colour=v2.Compose([v2.GaussianBlur(3), v2.Lambda(times(amount)), v2.Normalize([amount], [1.0])]),
    )


def frozen(how):
    model = net()
    model[1].weight.requires_grad_(how)
    return model


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.inner, self.factor = net(), factor

    def forward(self, x):
        return self.inner(x) * self.factor


def edited(how):
    "The same class with another `forward`."
    forwards = [lambda self, x: self.inner(x), lambda self, x: self.inner(x).tanh()]
    return type("Edited", (Scaled,), {"__module__": __name__, "forward": forwards[how]})(1.0)


def black(n, of=6400, lazy=False):
    data = dots(of)
    data.images[torch.arange(n) * 100 + 1] = 0  # not those that a sample of a few would show
    return Lazy(data) if lazy else data


def moved(by):
    data = dots()
    data.keypoints[3] += by
    return data


OTHER = {  # what is changed -> (function, its argument at first, and later)
    "partial": (lambda k: {"loss": functools.partial(Own.__call__, Own(k))}, 1, 2),
    "partial keyword": (lambda k: {"loss": functools.partial(with_default(1), factor=k)}, 1, 2),
    "lambda": (lambda k: {"loss": [lambda o, b: point_mse(o, b), lambda o, b: point_mse(o, b) * 2][k]}, 0, 1),
    "constant of a lambda": (
        lambda k: {"loss": [lambda o, b: 2 * point_mse(o, b), lambda o, b: 3 * point_mse(o, b)][k]},
        0,
        1,
    ),
    "closure": (lambda k: {"loss": scaled(k)}, 1, 2),
    "function in a closure": (lambda k: {"loss": scaled(torch.tensor(k))}, 1.0, 2.0),
    "default argument": (lambda k: {"loss": with_default(k)}, 1, 2),
    "own object": (lambda k: {"loss": Own(k)}, 1, 2),
    "object with slots": (lambda k: {"loss": Slotted(k)}, 1, 2),
    "MapCrossEntropy": (lambda k: {"loss": MapCrossEntropy(k), "model": maps(), "decode": None}, 2.0, 9.0),
    "HeatmapLoss with a function": (
        lambda k: {"loss": HeatmapLoss(sigma=wide(k)), "model": maps(), "decode": None},
        2.0,
        9.0,
    ),
    "HeatmapLoss beside its function": (
        lambda k: {"loss": HeatmapLoss(k, wide(2.0)), "model": maps(), "decode": None},
        "bce",
        "focal",
    ),
    "augmentation": (lambda k: {"augment": turned(k)}, 0.0, 90.0),
    "colour function": (lambda k: {"augment": brighter(k)}, 0.5, 0.9),
    "torchvision transform": (lambda k: {"augment": jitter(k)}, 0.2, 0.3),
    "metric": (lambda k: {"metrics": {"a": scaled(k)}, "valid": dots()}, 1, 2),
    "name of a metric": (lambda k: {"metrics": {k: once}, "valid": dots()}, "a", "b"),
    "decode": (lambda k: {"decode": [lambda o, b: o * 4, lambda o, b: o * 5][k], "valid": dots()}, 0, 1),
    "optimizer": (lambda k: {"optimizer": sgd(k)}, 0.5, 0.9),
    "schedule": (lambda k: {"schedule": steps(k)}, 0.5, 0.9),
    "activation": (lambda k: {"model": net([nn.ReLU, nn.Tanh][k])}, 0, 1),
    "setting of a layer": (lambda k: {"model": net(lambda: nn.LeakyReLU(k))}, 0.1, 0.2),
    "field of a network": (lambda k: {"model": Scaled(k)}, 1.0, 2.0),
    "forward of a network": (lambda k: {"model": edited(k)}, 0, 1),
    "list of a closure": (lambda k: {"loss": scaled_by_first(k)}, [1.0, 2.0], [3.0, 2.0]),
    "frozen weights": (lambda k: {"model": frozen(k)}, True, False),
    "pictures": (lambda k: {"data": black(k), "batch_size": 640}, 0, 49),
    "pictures of a lazy source": (lambda k: {"data": black(k, 40, True)}, 0, 1),
    "points": (lambda k: {"data": moved(k)}, 0.0, 0.25),
    "pairs": (lambda k: {"data": dots(points=2, pairs=k), "model": net(points=2)}, [], [(0, 1)]),
}


@pytest.mark.parametrize("what", OTHER)
def test_resuming_with_something_else_is_refused_and_with_the_same_is_not(tmp_path, what):
    make, then, now = OTHER[what]
    before = train(tmp_path / "c", **make(then))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = train(tmp_path / "c", **make(then), resume=True)
    assert again.rows == before.rows
    with pytest.raises(ValueError, match="was made with .*, and now it is"):
        train(tmp_path / "c", **make(now), resume=True)


def test_a_global_function_that_a_loss_uses_counts(tmp_path, monkeypatch):
    def loss(output, batch):
        return weigh(point_mse(output, batch), 1.0)

    train(tmp_path / "c", loss=loss)
    train(tmp_path / "c", loss=loss, resume=True)
    monkeypatch.setitem(globals(), "weigh", lambda values, factor: values * 3 * factor)
    with pytest.raises(ValueError, match="loss weigh .*and now it is"):
        train(tmp_path / "c", loss=loss, resume=True)


FACTOR = 1.0


def test_a_global_number_that_a_loss_uses_is_said(tmp_path, monkeypatch):
    def loss(output, batch):
        return FACTOR * point_mse(output, batch)

    train(tmp_path / "c", loss=loss)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.warns(UserWarning, match=r"loss FACTOR \(global\) = 1.0, and now it is 2.0"):
        train(tmp_path / "c", loss=loss, resume=True)


def test_what_nobody_can_look_into_is_said(tmp_path):
    g = torch.Generator().manual_seed(0)

    def noisy(batch, generator):
        return batch | {"image": batch["image"] + torch.rand(1, generator=g)}

    train(tmp_path / "c", augment=noisy)
    with pytest.warns(UserWarning, match=r"cannot be told.* augment g \(closure\) \(a Generator"):
        train(tmp_path / "c", augment=noisy, resume=True)


def test_a_counter_that_runs_while_training_hinders_nobody_but_is_said(tmp_path):
    seen, once_more = [], Own(1)
    once_more.calls = 0

    def counting(batch, generator):
        seen.append(len(seen))
        once_more.calls += 1
        return batch

    train(tmp_path / "c", augment=counting)
    with pytest.warns(UserWarning, match="does not hold what changes while training: .*augment seen"):
        train(tmp_path / "c", augment=counting, resume=True)


def test_a_source_that_gives_other_pictures_each_time_is_said(tmp_path):
    class Random(Lazy):
        def batches(self, *args, **kw):
            for batch in self.ds.batches(*args, **kw):
                yield batch | {"image": batch["image"] * random.random()}

    before = random.getstate()
    train(tmp_path / "c", data=Random(dots()))
    assert random.getstate() == before, "your own random numbers go on as if nothing had happened"
    with pytest.warns(UserWarning, match="cannot be told.* train .*other pictures each time"):
        train(tmp_path / "c", data=Random(dots()), resume=True)


def test_places_of_points_that_are_not_visible_are_no_other_data(tmp_path):
    def data(place):
        ds = dots()
        hidden = ds.keypoints.clone()
        hidden[2] = place
        return KeypointDataset(ds.images, hidden, torch.arange(8)[:, None] != 2)

    train(tmp_path / "c", data=data(math.nan))
    train(tmp_path / "c", data=data(1e9), resume=True)
