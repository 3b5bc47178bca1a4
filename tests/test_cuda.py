"""What runs on the CPU runs on CUDA, and gives the same.

Every public function that `tests/test_silence.py` knows how to call is called once with all tensors and
networks on the CPU and once with all on CUDA. Without CUDA these tests are skipped; `make gpu` runs them.
"""

import copy
import inspect
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from test_silence import (
    CALLS,
    CONCERNED,
    EXCUSED,
    PUBLIC,
    SLOW,
    World,
    by_name,
    differs,
    made_object,
    parameters,
)
from torch import Tensor, nn

from kpnb import models
from kpnb.core import seed_everything
from kpnb.geometry import KeypointDataset
from kpnb.heatmaps import HeatmapLoss
from kpnb.models import NoseNet
from kpnb.scenes import faces
from kpnb.training import evaluate, fit, point_mse, train_epoch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(autouse=True)
def exact():
    "Convolutions in float32, not TF32, and the same algorithm each time."
    names = [(torch.backends.cudnn, "allow_tf32"), (torch.backends.cudnn, "deterministic")]
    before = [getattr(where, name) for where, name in names]
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    for (where, name), value in zip(names, before):
        setattr(where, name, value)


def moved(x, device):
    "The same thing with its tensors and networks on a device."
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, nn.Module):
        return copy.deepcopy(x).to(device)
    if isinstance(x, KeypointDataset):
        return x.to(device)
    if isinstance(x, Mapping):
        return {k: moved(v, device) for k, v in x.items()}
    if isinstance(x, (list, tuple)) and any(
        isinstance(v, (Tensor, nn.Module, KeypointDataset, Mapping)) for v in x
    ):
        return type(x)([moved(v, device) for v in x])
    if type(x).__name__ == "Gaussians":
        return type(x)(*(moved(v, device) for v in (x.mean, x.std)))
    return x


def call_on(device, path, given):
    "Call a public function in a world that lies on a device; its answer comes back to the CPU."
    w, (f, owner) = World(), PUBLIC[path]
    arguments = {}
    for name, p in parameters(f).items():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or name in given:
            continue
        if name == "self":
            arguments[name] = made_object(path.rpartition(".")[0], owner, w)
        elif p.default is p.empty or name == "visible" or "KeypointDataset" in str(p.annotation):
            arguments[name] = by_name(w, p)
    for name, value in given.items():
        arguments[name] = value(w) if inspect.isfunction(value) else value
    arguments = {k: device if k == "device" else moved(v, device) for k, v in arguments.items()}
    seed_everything(0)
    result = f(**arguments)
    return list(result) if inspect.isgenerator(result) else result


def numbers(x):
    "All numbers of a result, on the CPU; times left out."
    if isinstance(x, (Tensor, np.ndarray)):
        return [torch.as_tensor(x).detach().cpu().double()]
    if isinstance(x, (bool, int, float)):
        return [torch.tensor(float(x), dtype=torch.float64)]
    if isinstance(x, pd.DataFrame):
        return numbers({k: list(v) for k, v in x.items()})
    if isinstance(x, nn.Module):
        return numbers(dict(x.state_dict()))
    if isinstance(x, Mapping):
        return [n for k, v in x.items() if "seconds" not in str(k) for n in numbers(v)]
    if isinstance(x, (list, tuple)):
        return [n for v in x for n in numbers(v)]
    if hasattr(x, "__dict__") and not callable(x):
        return numbers(vars(x))
    return []


# Training amplifies the last digit of float32 from step to step; one epoch stays within this.
TRAINED = 2e-2
HERE = [path for path in CONCERNED if path not in EXCUSED and path not in SLOW]


@pytest.mark.parametrize("path", HERE)
def test_a_function_gives_on_cuda_what_it_gives_on_the_cpu(path):
    variants = CALLS.get(path, {})
    for given in variants if isinstance(variants, list) else [variants]:
        here, there = numbers(call_on("cpu", path, given)), numbers(call_on("cuda", path, given))
        assert len(here) == len(there)
        within = TRAINED if "epochs" in given or "steps" in given else 1e-4
        for a, b in zip(here, there):
            assert a.shape == b.shape
            scale = a[a.isfinite()].abs().max() if a.isfinite().any() else 1.0
            assert torch.allclose(a, b, within, within * float(scale), equal_nan=True), (
                f"kpnb.{path}: {a.flatten()[:4].tolist()} and {b.flatten()[:4].tolist()}"
            )


NETWORKS = [
    name
    for name in models.__all__
    if inspect.isclass(getattr(models, name))
    and issubclass(getattr(models, name), nn.Module)
    and list(inspect.signature(getattr(models, name)).parameters)[:1] == ["keypoints"]
]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_on_cuda_as_on_the_cpu(name):
    kind = getattr(models, name)
    options = {"in_channels": 3} if "in_channels" in inspect.signature(kind).parameters else {}
    if name == "NoseNet":
        options["size"] = (64, 64)
    seed_everything(0)
    model = kind(3, **options).eval()
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        here = numbers(model(x))
        there = numbers(copy.deepcopy(model).cuda()(x.cuda()))
    for a, b in zip(here, there, strict=True):
        assert torch.allclose(a, b, 1e-3, 1e-3 * float(a.abs().max()))


@pytest.fixture(scope="module")
def noses():
    easy = dict(size=(32, 40), points=1, gray=True, masks=False, occluders=0.0, sunglasses=0.0)
    return faces(200, seed=0, **easy), faces(100, seed=1, **easy)


def a_training(noses, device, **settings):
    seed_everything(0)
    model = NoseNet(1, (32, 40), channels=(4, 8, 16), head="soft-argmax")
    given = dict(epochs=5, batch_size=25, lr=3e-3, progress=False, amp=False, device=device) | settings
    history = fit(model, *noses, **given)
    return model, history


def test_a_training_on_cuda_gives_the_curve_of_the_cpu(noses):
    (_, here), (_, there) = (a_training(noses, d) for d in ("cpu", "cuda"))
    assert here["valid_loss"] == pytest.approx(there["valid_loss"], rel=0.02)
    assert here["train_loss"] == pytest.approx(there["train_loss"], rel=0.02)


def test_bfloat16_on_cuda_learns_as_much(noses):
    error = lambda amp: evaluate(a_training(noses, "cuda", epochs=20, amp=amp)[0], noses[1])["error_px"]
    assert error(True) < 1.3 * error(False) + 0.1


def test_two_trainings_on_cuda_are_equal_bit_for_bit(noses):
    (a, _), (b, _) = (a_training(noses, "cuda", epochs=2) for _ in range(2))
    assert differs(dict(a.cpu().state_dict()), dict(b.cpu().state_dict())) is None


def test_a_training_goes_on_from_its_checkpoint_on_cuda(noses, tmp_path):
    whole, _ = a_training(noses, "cuda", epochs=4)
    file = tmp_path / "state.pt"
    a_training(noses, "cuda", epochs=4, checkpoint=file, callbacks=lambda model, history: len(history) == 2)
    rest, history = a_training(noses, "cuda", epochs=4, checkpoint=file, resume=True)
    assert len(history) == 4
    assert differs(dict(whole.cpu().state_dict()), dict(rest.cpu().state_dict())) is None


def test_what_was_trained_on_cuda_is_judged_alike_on_both(noses):
    model, _ = a_training(noses, "cuda")
    there = evaluate(model, noses[1])
    here = evaluate(model.cpu(), noses[1])
    assert here == pytest.approx(there, rel=1e-3)


def test_nothing_is_left_on_another_device(noses):
    model, _ = a_training(noses, "cuda", epochs=1)
    assert {p.device.type for p in [*model.parameters(), *model.buffers()]} == {"cuda"}


def synchronisations(work):
    "How often the CPU waits for the device while a function runs."
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [w for w in found if "synchroniz" in str(w.message)]


@pytest.mark.parametrize("kind", ["points", "heatmaps"])
def test_the_loop_waits_for_the_device_once_a_batch(noses, kind):
    "For the loss alone: that a NaN is found before it reaches the weights is worth one wait a batch."
    seed_everything(0)
    if kind == "points":
        model, loss = NoseNet(1, (32, 40), channels=(4, 8, 16), head="soft-argmax").cuda(), point_mse
    else:
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid()
        ).cuda()
        loss = HeatmapLoss("mse", 2.0)
    batches = list(noses[0].batches(25, device="cuda"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    epoch = lambda n: train_epoch(model, batches[:n], optimizer, loss)
    epoch(2)
    few, many = (len(synchronisations(lambda n=n: epoch(n))) for n in (2, 6))
    assert (many - few) / 4 <= 1, f"{few} waits in 2 batches, {many} in 6"


def test_batches_of_a_data_set_on_the_device_do_not_leave_it(noses):
    "A data set on the device gives its batches there; only the order of the pictures comes from the CPU."
    there = noses[0].to("cuda")
    list(there.batches(25, device="cuda"))
    few, many = (
        len(synchronisations(lambda n=n: list(there[:n].batches(25, device="cuda")))) for n in (50, 150)
    )
    assert (many - few) / 4 <= 2, f"{few} waits in 2 batches, {many} in 6"
