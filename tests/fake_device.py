"""A graphics card that is none: its tensors refuse what a tensor on CUDA refuses.

Inside `fake_device()` a tensor on the device "meta" has numbers and is computed with on the CPU, but

- an operation that mixes it with a tensor of the CPU fails, as it does on a graphics card;
- `numpy()` fails, and so does a random generator of the CPU;
- what makes the CPU wait for the device is counted: reading a number, copying to the CPU, picking by a mask.
"""

import contextlib
import os
import sys
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

DEVICE = torch.device("meta")
aten = torch.ops.aten
# these take whole numbers of the CPU as indices
INDEXED = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
# these make the CPU wait: their answer, or its size, is needed there
WAIT = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "bincount",
}


class Elsewhere(Tensor):
    "A tensor that says it lies on another device; `held` is the one that holds its numbers."

    @staticmethod
    def __new__(cls, held):
        return Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            requires_grad=False,
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self, **_):
        return f"Elsewhere({self.held!r})"

    def numpy(self, **_):
        raise TypeError("can't convert meta device type tensor to numpy. Use Tensor.cpu() to copy it first")

    def __array__(self, *_, **__):
        return self.numpy()

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        return super().__getitem__(tuple(torch.tensor(i) if isinstance(i, list) else i for i in parts))

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    "Also sees what makes tensors, which have no tensor among their arguments."

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {}, self.waits)


def _is_there(device):
    return device is not None and torch.device(device).type == "meta"


def _compute(func, args, kwargs, waits=None):
    name = func.__name__.split(".")[0]
    flat, spec = tree_flatten((args, kwargs))
    there = any(isinstance(x, Elsewhere) for x in flat)
    _check(name, flat, args, there)
    target = there
    devices = [x for x in flat if isinstance(x, torch.device)]
    if devices:
        target = _is_there(devices[0])
    plain = [_here(x) for x in flat]
    if target and any(isinstance(x, torch.Generator) for x in flat):
        raise RuntimeError("Expected a 'meta' device type for generator but found 'cpu'")
    if waits is not None and (there or target):
        _count(name, args, kwargs, there, target, waits)
    new_args, new_kwargs = tree_unflatten(plain, spec)
    out = func(*new_args, **new_kwargs)
    if not target:
        return out
    same = {id(x.held): x for x in flat if isinstance(x, Elsewhere)}
    wrapped = tree_map(lambda x: _wrapped(x, same), out)
    return wrapped if not there else return_and_correct_aliasing(func, args, kwargs, wrapped)


def _wrapped(x, same):
    if not isinstance(x, Tensor) or isinstance(x, Elsewhere):
        return x
    return same[id(x)] if id(x) in same else Elsewhere(x)


def _here(x):
    "An argument as the CPU wants it."
    if isinstance(x, Elsewhere):
        return x.held
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == "meta" else x


def _check(name, flat, args, there):
    if not there or name in ("_to_copy", "copy_", "set_", "lift_fresh"):
        return
    strangers = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.dim() > 0]
    if name in INDEXED and isinstance(args[0], Elsewhere):
        indices = tree_flatten(args[1])[0]
        strangers = [x for x in strangers if not any(x is i for i in indices)]
    if strangers:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, meta and cpu! "
            f"({name})"
        )


def _count(name, args, kwargs, there, target, waits):
    "Note an operation after which the CPU waits for the device."
    if name in ("_to_copy", "copy_"):
        source = args[1] if name == "copy_" else args[0]
        crosses = isinstance(source, Elsewhere) != (
            isinstance(args[0], Elsewhere) if name == "copy_" else target
        )
        late = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
        to_cpu = isinstance(source, Elsewhere)
        if crosses and (to_cpu or not late):
            waits.append(f"{name} at {_place()}")
    elif there and name in WAIT:
        waits.append(f"{name} at {_place()}")
    elif there and name in INDEXED:
        indices = tree_flatten(args[1])[0]
        if any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices):
            waits.append(f"{name} by a mask at {_place()}")
        elif any(isinstance(i, Tensor) and not isinstance(i, Elsewhere) for i in indices):
            waits.append(f"{name} by numbers of the CPU at {_place()}")


def _moving(make):
    "`torch.tensor` or `torch.as_tensor`, which torch makes on the device without telling a mode."

    def made(data, *args, device=None, **kw):
        here = make(data, *args, **kw)
        return here if device is None else here.to(device)

    return made


def _new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
    "`Tensor.new_tensor`, likewise."
    made = torch.as_tensor(data, dtype=dtype or self.dtype, device=device or self.device)
    return made.clone().requires_grad_(requires_grad)


def _place():
    "Where the package called torch: file and line."
    frame = sys._getframe()
    while frame.f_back is not None and f"{os.sep}kpnb{os.sep}" not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


@contextlib.contextmanager
def fake_device():
    "A block in which the device meta computes; gives the list of the operations that waited for it."
    waits = []
    plain = torch.autocast
    with contextlib.ExitStack() as stack:
        as_cpu = lambda kind, *args, **kw: plain("cpu" if kind == "meta" else kind, *args, **kw)
        stack.enter_context(mock.patch.object(torch, "autocast", as_cpu))
        for name in ("tensor", "as_tensor"):
            stack.enter_context(mock.patch.object(torch, name, _moving(getattr(torch, name))))
        stack.enter_context(mock.patch.object(Tensor, "new_tensor", _new_tensor))
        kept = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, kept)
        stack.enter_context(_Mode(waits))
        yield waits
