"""What several answers say together."""

import torch

from kpnb.ensembles import mix
from kpnb.gaussians import Gaussians


def test_an_ensemble_of_half_precision_does_not_overflow():
    members = [
        Gaussians(torch.full((1, 1, 2), v).half(), torch.full((1, 1, 2), 400.0).half()) for v in (0.0, 600.0)
    ]
    got = mix(members)
    assert (got.mean[0, 0, 0].item(), got.aleatoric[0, 0, 0].item(), got.epistemic[0, 0, 0].item()) == (
        300.0,
        160000.0,
        90000.0,
    )
