"""The losses agree with torch for every spread, are exact as scores and cannot run away in a training."""

import math

import pytest
import torch
from point_cases import batch_of, data
from torch.distributions import Laplace, MultivariateNormal, Normal, StudentT

from kpnb.backbones import PointGaussian
from kpnb.likelihood import (
    LOG_VAR,
    LOSSES,
    DistributionLoss,
    beta_nll,
    cholesky_covariance,
    cholesky_nll,
    faithful_nll,
    gaussian_nll,
    laplace_nll,
    laplace_std,
    student_nll,
)


def draws(seed, n=400):
    "Means, targets a few σ away, and σ from 1e-6 to 1e6."
    g = torch.Generator().manual_seed(seed)
    sigma = 10 ** (12 * torch.rand(n, generator=g, dtype=torch.float64) - 6)
    mean = 100 * torch.randn(n, generator=g, dtype=torch.float64)
    return mean, sigma, mean + 3 * sigma * torch.randn(n, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_likelihoods_agree_with_torch_for_every_sigma(seed):
    mean, sigma, target = draws(seed)
    ours = gaussian_nll(mean, 2 * sigma.log(), target)
    torch.testing.assert_close(ours, -Normal(mean, sigma).log_prob(target), rtol=1e-9, atol=1e-9)
    ours = laplace_nll(mean, sigma.log(), target)
    torch.testing.assert_close(ours, -Laplace(mean, sigma).log_prob(target), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(laplace_std(sigma.log()), Laplace(mean, sigma).stddev, rtol=1e-9, atol=0)
    for df in (1.0, 4.0, 30.0):
        ours = student_nll(mean, sigma.log(), target, df)
        torch.testing.assert_close(ours, -StudentT(df, mean, sigma).log_prob(target), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_cholesky_likelihood_agrees_with_torch_for_every_sigma(seed):
    (mean, sigma, _), (other, tau, _) = draws(seed), draws(seed + 100)
    lean = torch.randn(len(sigma), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lower = torch.zeros(len(sigma), 2, 2, dtype=torch.float64)
    lower[:, 0, 0], lower[:, 1, 0], lower[:, 1, 1] = sigma, lean * tau, tau
    raw, mean = torch.stack([sigma.log(), lean * tau, tau.log()], -1), torch.stack([mean, other], -1)
    noise = torch.randn(
        len(sigma), 2, 1, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    target = mean + (lower @ noise)[..., 0]
    theirs = -MultivariateNormal(mean, scale_tril=lower).log_prob(target)
    torch.testing.assert_close(cholesky_nll(mean, raw, target), theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(cholesky_covariance(raw), lower @ lower.mT, rtol=1e-9, atol=0)


@pytest.mark.parametrize("f", [gaussian_nll, beta_nll, faithful_nll, laplace_nll, student_nll, cholesky_nll])
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_a_training_is_protected_from_extreme_promises(f, extreme):
    second = torch.full((2, 3, 3 if f is cholesky_nll else 2), extreme)
    if f is cholesky_nll:
        second[..., 1] = 1.0
    mean, second = torch.full((2, 3, 2), 1e5).requires_grad_(), second.requires_grad_()
    batch = {
        "image": torch.zeros(2, 1, 8, 8),
        "keypoints": torch.full((2, 3, 2), 4.0),
        "visible": torch.ones(2, 3).bool(),
    }
    loss = DistributionLoss(f)((mean, second), batch)
    loss.backward()
    assert loss.isfinite() and mean.grad.isfinite().all() and second.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_an_answer_that_is_not_finite_at_a_hidden_point_spoils_no_gradient(name):
    ds = data(odd=math.nan)
    hidden = ~ds.visible[..., None]
    mean = torch.where(hidden, math.nan, torch.zeros(6, 5, 2)).requires_grad_()
    second = torch.where(hidden, math.inf, torch.zeros(6, 5, 3 if name == "full" else 2)).requires_grad_()
    LOSSES[name](PointGaussian(mean, second), batch_of(ds)).backward()
    for g in (mean.grad, second.grad):
        assert g is None or (g.isfinite().all() and (g[hidden[..., 0]] == 0).all())


def test_the_bounds_of_a_training_are_named():
    assert LOG_VAR[0] < 0 < LOG_VAR[1] and "LOG_VAR" not in repr(DistributionLoss())
    assert "bounds=None" in repr(DistributionLoss(bounds=None))
