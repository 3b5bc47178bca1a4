"""Scores are the plain ones, whatever the shape, and nothing of the size of the input is made."""

import pytest
import torch
import torch.nn.functional as F
from mask_cases import case
from torch.utils._python_dispatch import TorchDispatchMode

from kpnb.confidences import brier, nll
from kpnb.scaling import TemperatureScaling, VectorScaling


class Largest(TorchDispatchMode):
    "The most bytes of any tensor that is newly made."

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        held = {
            x.untyped_storage().data_ptr()
            for x in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(x, torch.Tensor)
        }
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in held:
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("shape", [(8, 20, 256, 256), (1, 20, 724, 724), (524288, 20)])
@pytest.mark.parametrize("name", ["nll", "brier", "fit"])
def test_nothing_of_half_the_size_of_the_input_is_made(name, shape):
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(shape[0], *shape[2:]).byte()
    if name == "brier":
        scores /= scores.sum(1, keepdim=True)
    call = {
        "nll": lambda: nll(scores, target),
        "brier": lambda: brier(scores, target),
        "fit": lambda: VectorScaling(20).fit(scores, target, steps=1, places=100_000),
    }[name]
    with Largest() as largest:
        call()
    assert 0 < largest.bytes < scores.nbytes / 2


def test_void_may_hold_anything_when_probabilities_are_looked_for():
    z, t = case()
    shares = torch.where((t == 255)[:, None], -9.0, z.softmax(1))
    with pytest.raises(ValueError, match="expected logits"):
        nll(shares, t)
    with pytest.raises(ValueError, match="expected logits"):
        TemperatureScaling().fit(shares, t)
    assert nll(z, torch.full_like(t, 255)).isnan()
    assert nll(torch.where((t == 255)[:, None], 0.25, z), t) == nll(z, t)


@pytest.mark.parametrize("seed", range(3))
def test_scores_in_pieces_are_the_plain_scores(seed):
    z, t = case(seed, n=5, classes=6, size=200)  # more numbers than one piece holds
    known, labels = t != 255, t.long()
    plain = F.cross_entropy(z, labels, ignore_index=255)
    torch.testing.assert_close(nll(z, t), plain, rtol=1e-6, atol=0)
    y = F.one_hot(torch.where(known, labels, 0), 6).movedim(-1, 1)
    right = ((z.double().softmax(1) - y) ** 2).sum(1)[known].mean()
    torch.testing.assert_close(brier(z.double().softmax(1), t), right, rtol=1e-9, atol=0)
    turned = z.permute(2, 1, 3, 0).contiguous().permute(3, 1, 0, 2)
    torch.testing.assert_close(nll(turned, t), plain, rtol=1e-6, atol=0)
