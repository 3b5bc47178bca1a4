"""Intervals, paired comparisons and verdicts, against SciPy and by counting."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from kpnb.statistics import (
    bootstrap,
    compare,
    holm,
    interval95,
    mean_interval,
    permutation_p,
    roc,
    verdict,
    weighted_bootstrap,
)


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("n", [2, 3, 5, 11, 12, 40])
def test_mean_interval_is_that_of_scipy(n):
    v = numbers(n, n) + 0.3
    for level in (0.5, 0.9, 0.95, 0.999):
        ours, theirs = mean_interval(v, level), stats.ttest_1samp(v, 0)
        assert np.allclose(
            [ours.value, ours.low, ours.high, ours.p],
            [v.mean(), *theirs.confidence_interval(level), theirs.pvalue],
            rtol=1e-9,
        )


def test_nineteen_of_twenty_intervals_hold_the_mean():
    held = [(i := mean_interval(v)).low <= 0 <= i.high for v in numbers(0, 4000, 4)]
    assert abs(np.mean(held) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.parametrize("seed", range(20))
def test_verdict_is_a_paired_t_test(seed):
    a, b = numbers(seed, 6), numbers(seed + 100, 6) + 0.8
    v, theirs = verdict(a, b), stats.ttest_rel(b, a)
    assert np.isclose(v.difference.p, theirs.pvalue) and np.isclose(
        v.difference.low, theirs.confidence_interval().low
    )
    assert v.told_apart == (theirs.pvalue < 0.05) == (v.difference.low > 0 or v.difference.high < 0)
    assert np.isclose(verdict(b, a).difference.value, -v.difference.value)


def test_the_sentence_says_all_that_is_needed():
    told = str(verdict([3.0, 3.1, 2.9, 3.05], [2.5, 2.62, 2.4, 2.53], ("plain", "wing"), "px"))
    assert told == "wing against plain, told apart: −0.500 px, 95 % −0.526 to −0.474, 4 seeds"
    assert "not told apart" in str(verdict([1.0, 2, 3], [3.0, 1, 2]))
    assert "the pairs are not independent" in str(verdict([1.0, 2, 3], [3.0, 1, 2], independent=False))


def test_pairs_of_one_group_are_averaged_and_this_is_said():
    person = np.repeat(np.arange(4), 25)
    a = numbers(1, 100)
    b = a + numbers(2, 4)[person]
    v = verdict(a, b, groups=person, what="persons")
    plain = verdict([a[person == i].mean() for i in range(4)], [b[person == i].mean() for i in range(4)])
    assert v.difference.n == 4 and np.isclose(v.difference.p, plain.difference.p)
    assert "100 pairs, averaged within the persons" in str(v)
    assert verdict(a, b).difference.high - verdict(a, b).difference.low < 0.5 * (
        v.difference.high - v.difference.low
    )


@pytest.mark.parametrize(
    "a, b, kw, words",
    [
        ([1, 2], [2, 3], {}, "found 2 independent"),
        ([1, 2, 3], [1, 2], {}, "found 3 and 2 values"),
        ([1, 2, np.nan], [1, 2, 3], {}, "value 2 is nan"),
        ([1, 2, 3, 4], [4, 3, 2, 1], {"groups": [0, 0, 1, 1]}, "found 2 independent"),
        ([1, 2, 3], [1, 2, 4], {"groups": [1]}, "found 1 group labels"),
        ([1, 2, 3], [1, 2, 4], {"level": 95}, "level is 95"),
    ],
)
def test_what_cannot_be_judged_is_refused(a, b, kw, words):
    with pytest.raises(ValueError, match=words):
        verdict(a, b, **kw)


def test_equal_measurements_give_a_point_and_no_nan():
    same, shifted = verdict([1.0, 2, 3], [1.0, 2, 3]), verdict([1.0, 2, 3], [2.0, 3, 4])
    assert same.difference.p == 1 and not same.told_apart and shifted.difference.p == 0 and shifted.told_apart
    assert "+0.00" in str(same) and "+1.00" in str(shifted)


def test_all_points_are_drawn():
    import matplotlib

    matplotlib.use("agg")
    v = verdict([3.0, 3.1, 2.9], [2.4, 2.7, 2.3], ("a", "b"), "px")
    ax = v.plot()
    lines = [line.get_ydata() for line in ax.lines]
    assert sum(list(y) == [a, b] for y in lines for a, b in zip(v.first, v.second)) == 3
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"] and ax.get_ylabel() == "px"


@pytest.mark.parametrize("seed", range(30))
def test_holm_is_the_closed_test_of_bonferroni(seed):
    rng = np.random.default_rng(seed)
    p = rng.random(rng.integers(1, 7)) ** 3
    brute = [
        max(
            min(1, len(s) * min(p[j] for j in s))
            for r in range(1, len(p) + 1)
            for s in itertools.combinations(range(len(p)), r)
            if i in s
        )
        for i in range(len(p))
    ]
    assert np.allclose(holm(p), brute)


def test_holm_refuses_what_is_no_p():
    with pytest.raises(ValueError, match="found 1.2; expected p values"):
        holm([0.1, 1.2])


@pytest.mark.parametrize("seed", range(5))
def test_permutation_counts_all_exchanges(seed):
    d = numbers(seed, 7) + 0.5
    signs = np.array(list(itertools.product([1, -1], repeat=7)))
    brute = np.mean(np.abs((signs * d).mean(1)) >= abs(d.mean()) - 1e-12)
    assert np.isclose(permutation_p(np.zeros(7), d), brute, rtol=1e-6)


@pytest.mark.parametrize("method", ["basic", "percentile"])
def test_bootstrap_is_that_of_scipy_within_its_noise(method):
    v = numbers(3, 60) ** 2
    ours = bootstrap(v, np.median, times=4000, method=method)
    theirs = stats.bootstrap(
        (v,), np.median, n_resamples=4000, method=method, rng=np.random.default_rng(0)
    ).confidence_interval
    assert np.allclose([ours.low, ours.high], list(theirs), atol=0.08) and ours.value == np.median(v)


def test_groups_are_drawn_whole_and_independent_of_their_order():
    film = np.repeat(np.arange(8), 20)
    error = numbers(4, 8)[film] + 0.1 * numbers(5, 160)
    order = np.random.default_rng(0).permutation(160)
    whole, shuffled, single = (
        bootstrap(error, groups=film),
        bootstrap(error[order], groups=film[order]),
        bootstrap(error),
    )
    width = lambda i: i.high - i.low
    assert width(whole) > 2.5 * width(single) and whole.n == 8
    assert abs(width(whole) / width(shuffled) - 1) < 0.15
    seen = []
    bootstrap(film, lambda rows: seen.append(rows) or 0.0, groups=film, times=20)
    for rows in seen[1:]:
        assert (np.unique(rows, return_counts=True)[1] % 20 == 0).all() and len(rows) == 160


def test_bootstrap_repeats_with_its_seed_and_goes_on_with_a_generator():
    v = numbers(6, 30)
    assert bootstrap(v, seed=1) == bootstrap(v, seed=1) != bootstrap(v, seed=2)
    g = torch.Generator().manual_seed(1)
    assert bootstrap(v, seed=g) != bootstrap(v, seed=g)
    with pytest.raises(ValueError, match="expected at least 2"):
        bootstrap(v, groups=[0] * 30)


@pytest.mark.parametrize("seed", range(10))
def test_area_below_the_curve_is_mann_whitneys_u(seed):
    a, b = numbers(seed, 40).round(1), (numbers(seed + 50, 25) + 0.7).round(1)
    curve = roc(torch.tensor(a), torch.tensor(b))
    assert np.isclose(curve.auc, stats.mannwhitneyu(b, a).statistic / 1000)
    assert curve.false_alarms[0] == curve.found[0] == 0 and curve.false_alarms[-1] == curve.found[-1] == 1
    assert (np.diff(curve.false_alarms) >= 0).all() and (np.diff(curve.found) >= 0).all()


def test_intervals_use_the_exact_quantiles_of_student():
    exact = {
        1: 12.706204736,
        2: 4.302652730,
        4: 2.776445105,
        5: 2.570581836,
        10: 2.228138852,
        11: 2.200985160,
        30: 2.042272456,
        100: 1.983971519,
        1000: 1.962339081,
    }
    for df, t in exact.items():
        values = torch.randn(df + 1, generator=torch.Generator().manual_seed(df), dtype=torch.float64)
        mean, half = interval95(values.tolist())
        assert mean == pytest.approx(values.mean().item())
        assert half == pytest.approx(t * values.std().item() / math.sqrt(df + 1), rel=1e-8)


def test_the_area_says_how_often_a_strange_case_scores_higher():
    assert roc([1.0, 2, 3], [4.0, 5]).auc == 1 and roc([4.0, 5], [1.0, 2]).auc == 0
    assert roc(torch.ones(3), torch.ones(2)).auc == 0.5
    with pytest.raises(ValueError, match=r"strange.*\(0,\)"):
        roc([1.0], [])


@pytest.mark.parametrize("method", ["basic", "percentile"])
@pytest.mark.parametrize("seed", range(3))
def test_all_redraws_at_once_are_the_redraws_one_by_one(method, seed):
    v = torch.tensor(numbers(seed, 30))
    plain = bootstrap(v, method=method, seed=seed, times=500)
    quick = weighted_bootstrap(
        float(v.mean()), lambda w: w @ v / w.sum(1), 30, times=500, method=method, seed=seed
    )
    assert (quick.value, quick.low, quick.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert (quick.level, quick.n, quick.p) == (0.95, 30, None)


def test_the_p_value_of_redraws_is_where_the_interval_begins_to_hold_zero():
    for seed in range(10):
        v = torch.tensor(numbers(seed, 40)) + 0.3
        for level in (0.5, 0.8, 0.95):
            i = weighted_bootstrap(
                float(v.mean()), lambda w: w @ v / w.sum(1), 40, level, 1000, seed=seed, test=True
            )
            assert abs(i.p + level - 1) < 0.02 or (i.p < 1 - level) == (i.low > 0 or i.high < 0)
    with pytest.raises(ValueError, match="nothing to measure"):
        weighted_bootstrap(math.nan, lambda w: w[:, 0] * math.nan, 5)
    with pytest.raises(ValueError, match="'basic' or 'percentile'"):
        weighted_bootstrap(0.0, lambda w: w[:, 0], 5, method="bca")


def measurements(shifts, seeds=5):
    return pd.DataFrame(
        [
            {"way": w, "seed": s, "film": s // 2, "px": 3 + shift + 0.1 * numbers([s, i, 7], 1)[0]}
            for i, (w, shift) in enumerate(shifts.items())
            for s in range(seeds)
        ]
    )


def test_a_table_is_compared_pair_by_pair_in_any_order():
    table = measurements({"mse": 0, "wing": -1, "l1": 0})
    found = compare(table.sample(frac=1, random_state=0), "px", "way", "mse")
    assert len(found) == 2 and found["wing"].told_apart and not found["l1"].told_apart
    plain = verdict(table[table.way == "mse"].px, table[table.way == "wing"].px)
    assert np.isclose(found["wing"].difference.value, plain.difference.value)
    assert "of 2 comparisons" in str(found) and len(str(found).splitlines()) == 2
    with pytest.raises(KeyError, match="there are"):
        found["huber"]


def test_many_questions_about_nothing_find_little():
    wrong = 0
    for trial in range(60):
        table = pd.DataFrame(
            [
                {"way": w, "seed": s, "px": x}
                for w, row in enumerate(numbers(trial, 11, 5))
                for s, x in enumerate(row)
            ]
        )
        wrong += any(v.told_apart for v in compare(table, "px", "way", 0))
    assert wrong / 60 < 0.12  # without the correction it is 0.3 and more


def test_groups_of_a_table_and_missing_pairs():
    table = measurements({"mse": 0, "wing": -1}, seeds=8)
    assert compare(table, "px", "way", "mse", groups="film", what="films")["wing"].difference.n == 4
    with pytest.raises(ValueError, match="no value for"):
        compare(table.iloc[1:], "px", "way", "mse")
