"""Conformal prediction: exact counts over all orders, known laws, weights, and errors that name the place."""

import math

import numpy as np
import pytest
import torch
from fake_device import fake_device
from scipy.stats import kstest

from kpnb.conformal import (
    conformal_quantile,
    coverage_law,
    group_quantiles,
    point_scores,
    region_area,
    risk_control,
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [1, 4, 9, 10, 19, 20, 37])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.5])
def test_of_all_choices_of_the_new_picture_the_promised_share_is_covered(n, alpha):
    """Each of n+1 scores is the new one in turn: exchangeability, counted out.

    At least (n+1)(1-alpha) of them must be covered, and without ties fewer than one more."""
    scores = torch.rand(n + 1, generator=gen(n)).double()
    hits = 0
    for i in range(n + 1):
        rest = torch.cat([scores[:i], scores[i + 1 :]])
        hits += bool(scores[i] <= conformal_quantile(rest, alpha))
    exact = (n + 1) * (1 - alpha)
    assert exact - 1e-9 <= hits < exact + 1


@pytest.mark.parametrize("n", [9, 10, 99, 150])
def test_the_limit_is_numpys_quantile_at_the_corrected_level(n):
    s = torch.randn(n, generator=gen(n))
    level = math.ceil((n + 1) * 0.9 - 1e-9) / n
    assert conformal_quantile(s, 0.1).item() == np.quantile(s.numpy(), level, method="inverted_cdf")


def test_too_few_pictures_promise_everything():
    assert conformal_quantile(torch.rand(8), 0.1) == math.inf
    assert conformal_quantile(torch.rand(9, generator=gen()), 0.1) == torch.rand(9, generator=gen()).max()
    assert conformal_quantile(torch.full((5,), math.nan), 0.5) == math.inf
    assert conformal_quantile(torch.zeros(0), 0.5) == math.inf


def test_hidden_points_are_left_out_and_columns_are_apart():
    s = torch.rand(60, 3, generator=gen())
    s[:20, 1] = math.nan
    q = conformal_quantile(s, 0.2)
    assert torch.equal(q, torch.stack([conformal_quantile(s[:, 0], 0.2), conformal_quantile(s[20:, 1], 0.2),
                                       conformal_quantile(s[:, 2], 0.2)]))  # fmt: skip


def test_equal_weights_change_nothing_and_their_scale_does_not_count():
    s, w = torch.rand(80, generator=gen()), torch.rand(80, generator=gen(1)) + 0.1
    for alpha in (0.1, 0.25):
        plain = conformal_quantile(s, alpha)
        assert conformal_quantile(s, alpha, torch.full((80,), 3.0), 3.0) == plain
        assert conformal_quantile(s, alpha, w, 0.5) == conformal_quantile(s, alpha, 10 * w, 5.0)


def test_weights_repair_a_shift_that_is_known():
    """Scores grow with x; calibration x is uniform on (0,1), new x has the density 2x."""
    g, covered, blind = gen(3), 0, 0
    for _ in range(2000):
        x = torch.rand(100, generator=g).double()
        s = x * torch.rand(100, generator=g).double()
        new = torch.rand((), generator=g).sqrt().double()
        score = new * torch.rand((), generator=g).double()
        covered += bool(score <= conformal_quantile(s, 0.1, 2 * x, 2 * new.item()))
        blind += bool(score <= conformal_quantile(s, 0.1))
    assert covered / 2000 > 0.885 and blind / 2000 < 0.865


def test_a_picture_that_calibration_never_saw_gets_the_whole_plane():
    assert conformal_quantile(torch.rand(100), 0.1, torch.ones(100), new_weight=20.0) == math.inf


def test_the_coverage_of_one_calibration_set_follows_its_law():
    g, n = gen(5), 40
    found = [conformal_quantile(torch.rand(n, generator=g), 0.1).item() for _ in range(3000)]
    law = coverage_law(n, 0.1)  # the coverage of uniform scores is the limit itself
    assert kstest(found, law.cdf).pvalue > 0.01
    assert law.mean() == pytest.approx(37 / 41)
    assert kstest(found, coverage_law(n + 2, 0.1).cdf).pvalue < 0.001


def test_scores_and_areas_belong_together():
    """The share of random points inside a region is its area over that of the square they fall into."""
    g, limit = gen(6), torch.tensor(1.5)
    std = torch.tensor([[[1.0, 2.0]]])
    points = (torch.rand(200_000, 1, 2, generator=g) - 0.5) * 10
    seen = torch.ones(200_000, 1, dtype=torch.bool)
    for how in ({}, dict(box=True), dict(std=std), dict(std=std, box=True)):
        wide = dict(how) | ({"std": std.expand(200_000, 1, 2)} if "std" in how else {})
        inside = (point_scores(torch.zeros_like(points), points, seen, **wide) <= limit).double().mean()
        assert inside.item() * 100 == pytest.approx(region_area(limit, **how).item(), rel=0.02)


def test_hidden_points_get_no_score_whatever_they_hold():
    mean, seen = torch.rand(4, 3, 2, generator=gen()), torch.rand(4, 3, generator=gen()) > 0.4
    results = []
    for anything in (0.0, -1.0, 1e9, math.nan):
        target = mean + 1
        target[~seen] = anything
        results.append(point_scores(mean, target, seen, torch.ones(4, 3, 2)))
    assert all(torch.equal(r[seen], results[0][seen]) and r[~seen].isnan().all() for r in results)
    target[seen] = math.nan
    with pytest.raises(ValueError, match="visible point"):
        point_scores(mean, target, seen)
    with pytest.raises(ValueError, match="not above 0"):
        point_scores(mean, mean, seen, torch.zeros(4, 3, 2))


def test_each_group_keeps_its_promise():
    g, kept = gen(7), torch.zeros(2)
    scale = torch.tensor([1.0, 5.0])
    for _ in range(1500):
        groups = torch.randint(0, 2, (120,), generator=g)
        limits = group_quantiles(torch.rand(120, generator=g) * scale[groups], groups, 0.1)
        kept += (torch.rand(2, generator=g) * scale <= limits).float()
    assert ((kept / 1500 - 0.905).abs() < 0.025).all()
    one = conformal_quantile(torch.rand(400, generator=g) * scale.repeat(200), 0.1)
    assert one > 1  # one limit covers the small group always, and the large one too seldom


def test_an_empty_group_promises_everything():
    limits = group_quantiles(torch.rand(40), torch.tensor([0] * 20 + [2] * 20), 0.1)
    assert limits[1] == math.inf and limits[[0, 2]].isfinite().all()


@pytest.mark.parametrize("n", [5, 20, 60])
def test_the_risk_of_a_new_picture_is_kept_over_all_choices(n):
    steps = torch.linspace(1, 0, 41)
    losses = (torch.rand(n + 1, 1, generator=gen(n)) * 1.5 * steps).clamp(max=1).double()
    alpha, found = 0.25, []
    for i in range(n + 1):
        k = risk_control(torch.cat([losses[:i], losses[i + 1 :]]), alpha)
        found.append(losses[i, k])
    mean = torch.stack(found).mean()
    assert mean <= alpha
    assert n < 50 or mean > alpha - 0.05  # careful, and not more so than need be


def test_of_the_settings_that_keep_the_risk_the_boldest_is_taken():
    losses = torch.linspace(1, 0, 11).expand(99, 11)
    assert risk_control(losses, 0.3) == 8  # (99·0.2 + 1)/100 = 0.208; at 7: (99·0.3 + 1)/100 = 0.307
    assert risk_control(losses, 0.4, worst=5.0) == 7  # (99·0.3 + 5)/100 = 0.347; at 6: 0.446


def test_scores_may_lie_on_another_device():
    s, groups = torch.rand(60, 2, generator=gen()), torch.arange(60) % 2
    s[3, 1] = math.nan
    losses = torch.rand(60, 1, generator=gen()) * torch.linspace(1, 0, 5)
    here = conformal_quantile(s, 0.1).tolist(), group_quantiles(s[:, 0], groups, 0.1).tolist()
    risk = risk_control(losses, 0.3)
    with fake_device():
        there = s.to("meta")
        assert conformal_quantile(there, 0.1).tolist() == here[0]
        assert group_quantiles(there[:, 0], groups.to("meta"), 0.1).tolist() == here[1]
        assert risk_control(losses.to("meta"), 0.3) == risk


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: conformal_quantile(torch.rand(5), 0.0), "alpha is 0.0"),
        (lambda: conformal_quantile(torch.rand(5), 90), "alpha is 90"),
        (lambda: conformal_quantile(torch.arange(5), 0.1), "int64"),
        (lambda: conformal_quantile(torch.rand(2, 2, 2), 0.1), "2, 2, 2"),
        (lambda: conformal_quantile(torch.rand(5), 0.1, torch.ones(4)), "for 5 scores"),
        (lambda: conformal_quantile(torch.rand(5), 0.1, -torch.ones(5)), "negative"),
        (lambda: coverage_law(8, 0.1), "at least 9"),
        (lambda: coverage_law(8, 1.0), "alpha is 1.0"),
        (lambda: group_quantiles(torch.rand(5), torch.rand(5), 0.1), "whole numbers"),
        (lambda: group_quantiles(torch.rand(5), torch.arange(5) - 1, 0.1), "whole numbers"),
        (lambda: risk_control(torch.rand(5), 0.1), "expected \\(n,L\\)"),
        (lambda: risk_control(torch.full((5, 2), 2.0), 0.1), "none above 1.0"),
        (lambda: risk_control(torch.full((5, 2), math.nan), 0.1), "none NaN"),
        (lambda: risk_control(torch.tensor([[0.2, 0.1], [0.1, 0.3]]), 0.5), "picture 1 rises"),
        (lambda: risk_control(torch.ones(50, 3), 0.5), "no setting keeps"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
