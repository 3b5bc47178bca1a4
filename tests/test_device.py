"""What runs on the CPU runs on another device, and gives the same.

Every public function that `tests/test_silence.py` knows how to call is called once with all tensors and
networks on the CPU and once with all on the device. Everywhere that is the device of `tests/fake_device.py`,
which refuses what CUDA refuses; where there is CUDA (`make gpu`) it is CUDA, too.
"""

import copy
import inspect
import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from fake_device import fake_device
from test_silence import (
    CALLS,
    CONCERNED,
    EXCUSED,
    PUBLIC,
    SLOW,
    World,
    arguments_of,
    differs,
)
from torch import Tensor, nn

from kpnb import models
from kpnb.core import seed_everything
from kpnb.evaluation import evaluate, point_mse
from kpnb.heatmap_losses import HeatmapLoss
from kpnb.keypoints import KeypointDataset
from kpnb.models import NoseNet
from kpnb.optimisation import train_epoch
from kpnb.scenes import faces
from kpnb.training import fit

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(params=["meta", pytest.param("cuda", marks=needs_cuda)])
def there(request):
    "A device, and the operations after which the CPU waited for it, where they are known."
    if request.param == "cuda":
        yield "cuda", None
    else:
        with fake_device() as waits:
            yield "meta", waits


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
    arguments = arguments_of(path, given, World())
    arguments = {k: device if k == "device" else moved(v, device) for k, v in arguments.items()}
    seed_everything(0)
    result = PUBLIC[path][0](**arguments)
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
# what is not the same on another device, and why
DIFFERS = {
    "mc_dropout": "each device draws random numbers of its own",
    "guess": "the highest cell of an untrained network hangs on the last digit",
}
HERE = [path for path in CONCERNED if path not in EXCUSED and path not in SLOW]


@pytest.mark.parametrize("path", HERE)
def test_a_function_gives_on_a_device_what_it_gives_on_the_cpu(path, there):
    variants = CALLS.get(path, {})
    for given in variants if isinstance(variants, list) else [variants]:
        expected, found = numbers(call_on("cpu", path, given)), numbers(call_on(there[0], path, given))
        assert len(expected) == len(found)
        if there[0] == "cuda" and path.rpartition(".")[2] in DIFFERS:
            continue
        within = TRAINED if "epochs" in given or "steps" in given else 1e-4
        for a, b in zip(expected, found):
            assert alike(a, b, within), (
                f"kpnb.{path}: {a.flatten()[:4].tolist()} and {b.flatten()[:4].tolist()}"
            )


def alike(a, b, within):
    "Whether numbers agree; of the bytes of pictures a few may be rounded the other way."
    if a.shape != b.shape:
        return False
    scale = float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 1.0
    if a.dim() >= 3 and a.numel() and scale > 100 and bool((a == a.round()).all()):
        return bool((a - b).abs().max() <= 1) and bool((a != b).double().mean() < 0.01)
    return torch.allclose(a, b, within, within * scale, equal_nan=True)


NETWORKS = [
    name
    for name in models.__all__
    if inspect.isclass(getattr(models, name))
    and issubclass(getattr(models, name), nn.Module)
    and list(inspect.signature(getattr(models, name)).parameters)[:1] == ["keypoints"]
]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_on_a_device_as_on_the_cpu(name, there):
    kind = getattr(models, name)
    options = {"in_channels": 3} if "in_channels" in inspect.signature(kind).parameters else {}
    if name == "NoseNet":
        options["size"] = (64, 64)
    seed_everything(0)
    model = kind(3, **options).eval()
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = numbers(model(x))
        found = numbers(copy.deepcopy(model).to(there[0])(x.to(there[0])))
    for a, b in zip(expected, found, strict=True):
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


def test_a_training_on_a_device_gives_the_curve_of_the_cpu(noses, there):
    (_, expected), (_, found) = (a_training(noses, d) for d in ("cpu", there[0]))
    assert expected["valid_loss"] == pytest.approx(found["valid_loss"], rel=0.02)
    assert expected["train_loss"] == pytest.approx(found["train_loss"], rel=0.02)


@needs_cuda
def test_bfloat16_on_cuda_learns_as_much(noses):
    error = lambda amp: evaluate(a_training(noses, "cuda", epochs=20, amp=amp)[0], noses[1])["error_px"]
    assert error(True) < 1.3 * error(False) + 0.1


@needs_cuda
def test_two_trainings_on_cuda_are_equal_bit_for_bit(noses):
    (a, _), (b, _) = (a_training(noses, "cuda", epochs=2) for _ in range(2))
    assert differs(dict(a.cpu().state_dict()), dict(b.cpu().state_dict())) is None


@needs_cuda
def test_a_training_goes_on_from_its_checkpoint_on_cuda(noses, tmp_path):
    whole, _ = a_training(noses, "cuda", epochs=4)
    file = tmp_path / "state.pt"
    a_training(noses, "cuda", epochs=4, checkpoint=file, callbacks=lambda model, history: len(history) == 2)
    rest, history = a_training(noses, "cuda", epochs=4, checkpoint=file, resume=True)
    assert len(history) == 4
    assert differs(dict(whole.cpu().state_dict()), dict(rest.cpu().state_dict())) is None


def test_what_was_trained_on_a_device_is_judged_alike_on_both(noses, there):
    model, _ = a_training(noses, there[0])
    found = evaluate(model, noses[1])
    assert evaluate(model.cpu(), noses[1]) == pytest.approx(found, rel=1e-3)


def test_a_training_leaves_the_network_on_its_device(noses, there):
    model, _ = a_training(noses, there[0], epochs=1)
    assert {p.device.type for p in [*model.parameters(), *model.buffers()]} == {there[0]}


def synchronisations(there, work):
    "The places where the CPU waits for the device while a function runs."
    device, waits = there
    if device == "meta":
        waits.clear()
        work()
        return list(waits)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [w for w in found if "synchroniz" in str(w.message)]


@pytest.mark.parametrize("kind", ["points", "heatmaps"])
def test_the_loop_waits_for_the_device_once_a_batch(noses, kind, there):
    "For the loss alone: that a NaN is found before it reaches the weights is worth one wait a batch."
    seed_everything(0)
    if kind == "points":
        model, loss = NoseNet(1, (32, 40), channels=(4, 8, 16), head="soft-argmax"), point_mse
    else:
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Sigmoid())
        loss = HeatmapLoss("mse", 2.0)
    model = model.to(there[0])
    batches = list(noses[0].batches(25, device=there[0]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    epoch = lambda n: train_epoch(model, batches[:n], optimizer, loss)
    epoch(8)  # a check of what the maps are looks at the first eight
    few, many = (synchronisations(there, lambda n=n: epoch(n)) for n in (2, 6))
    assert (len(many) - len(few)) / 4 <= 1, (
        f"{len(few)} waits in 2 batches, {len(many)} in 6: {sorted(set(map(str, many)))}"
    )


def test_batches_of_a_data_set_on_the_device_do_not_leave_it(noses, there):
    "A data set on the device gives its batches there; only the order of the pictures comes from the CPU."
    ds = noses[0].to(there[0])
    list(ds.batches(25, device=there[0]))
    waits = lambda n: synchronisations(there, lambda: list(ds[:n].batches(25, device=there[0])))
    few, many = waits(50), waits(150)
    assert (len(many) - len(few)) / 4 <= 1, (
        f"{len(few)} waits in 2 batches, {len(many)} in 6: {sorted(set(map(str, many)))}"
    )
