from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom, binomtest

from prmbench.stats.bootstrap import f1_intervals, f1_resamples, interval, mean_interval, share_interval
from prmbench.stats.thresholds import crossfit_thresholds, f1_from_counts, matches


def test_multinomial_draws_are_the_item_bootstrap():
    rng = np.random.default_rng(0)
    has_error = rng.random(80) < 0.4
    hits = rng.random(80) < 0.6
    fast = f1_resamples(hits, has_error, n_resamples=20_000, rng=np.random.default_rng(1))
    slow = []
    for _ in range(3000):
        chosen = rng.integers(80, size=80)
        h, e = hits[chosen], has_error[chosen]
        slow.append(float(f1_from_counts(int((h & e).sum()), int(e.sum()), int((h & ~e).sum()), int((~e).sum()))))
    for q in (0.025, 0.25, 0.5, 0.75, 0.975):
        assert np.quantile(fast["f1"], q) == pytest.approx(np.quantile(slow, q), abs=0.012)


def test_same_seed_same_numbers():
    hits, has_error = np.array([True, False, True]), np.array([True, True, False])
    first, second = (
        f1_resamples(hits, has_error, n_resamples=50, rng=np.random.default_rng(7))["f1"] for _ in range(2)
    )
    assert np.array_equal(first, second, equal_nan=True)


def test_interval_leaves_undefined_resamples_out():
    assert interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert all(np.isnan(interval(np.array([np.nan]))))
    assert all(np.isnan(interval(np.array([]))))


def test_crossfit_intervals_cover():
    """The stated 95% intervals hold about 95% of the time although the thresholds are held as chosen."""
    rng = np.random.default_rng(0)

    def sample(n):
        scores = [rng.normal(size=4) for _ in range(n)]
        labels = [int(k) for k in np.where(rng.random(n) < 0.5, -1, rng.integers(0, 4, size=n))]
        for row, k in zip(scores, labels, strict=True):
            if k >= 0:
                row[k] -= 2.0
        return matches(scores, labels)

    population = sample(20_000)
    covered = []
    for trial in range(200):
        drawn = sample(150)
        per_item, folds = crossfit_thresholds(drawn, [str(i) for i in range(150)], seed=trial)
        hits = drawn.hit(per_item)
        low, high = interval(
            f1_resamples(hits, drawn.has_error, n_resamples=1000, rng=np.random.default_rng(trial))["f1"]
        )
        used = [population.hit(t) for t in {per_item[folds == f][0] for f in range(5)}]
        e = population.has_error
        truth = np.mean(
            [
                float(f1_from_counts(int((h & e).sum()), int(e.sum()), int((h & ~e).sum()), int((~e).sum())))
                for h in used
            ]
        )
        covered.append(low <= truth <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_a_share_of_nothing_has_an_exact_bound():
    """0 of 100: 1 - 0.025^(1/100), the exact binomial's; the same from above for all of them."""
    zeros, samples = np.zeros(100), np.zeros(50)
    low, high = share_interval([zeros], samples)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025**0.01))
    assert high == pytest.approx(binomtest(0, 100).proportion_ci(0.95, "exact").high)
    assert share_interval([zeros + 1], samples + 1) == (pytest.approx(0.025**0.01), 1.0)
    # Of sets of very different sizes everything is in the smaller one, which is half of the mean.
    assert share_interval([zeros, np.zeros(20)], samples) == (0.0, pytest.approx((1 - 0.025 ** (1 / 20)) / 2))


@pytest.mark.parametrize("sizes", [[4] * 5, [8, 10], [2, 2], [40, 83], [90, 83, 500, 272, 675], [1, 3, 3, 9], [10, 8]])
def test_the_bound_is_the_largest_mean_not_excluded(sizes):
    """Against a general optimiser, from several starts."""
    limit = -np.log(0.025)
    best = 0.0
    for start in range(len(sizes) + 1):
        first = np.full(len(sizes), limit / sum(sizes)) if start == len(sizes) else np.zeros(len(sizes))
        if start < len(sizes):
            first[start] = limit / sizes[start]
        found = minimize(
            lambda u: -np.mean(1 - np.exp(-u)),
            first,
            bounds=[(0, None)] * len(sizes),
            constraints={"type": "ineq", "fun": lambda u: limit - np.dot(sizes, u)},
            options={"ftol": 1e-12},
        )
        best = max(best, -found.fun)
    _, high = share_interval([np.zeros(n) for n in sizes], np.zeros(1))
    assert high == pytest.approx(best, abs=1e-5)


def test_sets_of_one_size_are_one_sample():
    """Five sets of four problems with nothing right say what twenty problems say."""
    _, high = share_interval([np.zeros(4)] * 5, np.zeros(1))
    assert high == pytest.approx(binomtest(0, 20).proportion_ci(0.95, "exact").high)


def test_the_bound_covers():
    """A policy that is right in 2% of 60 problems' 4 completions: the bound is above 2% whenever nothing was right."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(2_000):
        values = rng.binomial(4, 0.02, size=60) / 4
        _, high = share_interval([values], np.zeros(1)) if not values.any() else (0, 1)
        missed += high < 0.02
    assert missed / 2_000 < 0.05


def test_other_shares_are_resampled():
    samples = np.linspace(0, 1, 101)
    for values in ([0.0, 1.0], [0.5, 0.5]):
        assert share_interval([np.array(values)], samples) == interval(samples)


def drawn(hits, has_error, n_resamples=200):
    return f1_resamples(hits, has_error, n_resamples=n_resamples, rng=np.random.default_rng(0))


def ends(hit_error, n_error, hit_correct, n_correct, n_resamples=200):
    hits = np.concatenate([np.arange(n_error) < hit_error, np.arange(n_correct) < hit_correct])
    has_error = np.arange(n_error + n_correct) < n_error
    return f1_intervals(hits, has_error, drawn(hits, has_error, n_resamples))


def test_f1_of_twelve_traces_without_a_hit():
    """0 of 6 and 0 of 6: the exact binomial's end is 0.459, and 2 * 0.459 / 1.459 is 0.63."""
    end = binomtest(0, 6).proportion_ci(0.95, "exact").high
    found = ends(0, 6, 0, 6)
    assert found["acc_error"] == found["acc_correct"] == (0.0, pytest.approx(end))
    assert found["f1"] == (0.0, pytest.approx(2 * end / (1 + end)))
    assert found["f1"][1] == pytest.approx(0.63, abs=0.001)
    # One class without a hit makes F1 0 in every resample too.
    assert ends(0, 6, 4, 6)["f1"] == found["f1"]
    assert ends(0, 100, 0, 2)["f1"][1] < 0.1  # what the larger class shows is enough
    low = binomtest(6, 6).proportion_ci(0.95, "exact").low
    assert ends(6, 6, 6, 6)["f1"] == (pytest.approx(low), 1.0)
    # Where resamples have a width they are as before; a class that is empty has no F1.
    hits, has_error = np.arange(12) % 2 == 0, np.arange(12) < 6
    assert f1_intervals(hits, has_error, drawn(hits, has_error))["f1"] == interval(drawn(hits, has_error)["f1"])
    assert all(np.isnan(ends(0, 0, 3, 6)["f1"]))
    assert all(np.isnan(ends(0, 6, 0, 6, n_resamples=0)["f1"]))


@pytest.mark.parametrize(("n_error", "n_correct"), [(1, 1), (3, 9), (8, 8), (30, 2)])
def test_bounds_of_f1_without_a_width_cover(n_error, n_correct):
    """By summing binomial probabilities: a true F1 outside such an interval is met with a chance of at most 5%."""
    zero, one = range(n_error + 1), range(n_correct + 1)
    intervals = {(i, j): ends(i, n_error, j, n_correct, 20)["f1"] for i in zero for j in one}
    for a in np.linspace(0.02, 0.98, 13):
        for c in np.linspace(0.02, 0.98, 13):
            f1 = 2 * a * c / (a + c)
            missed = sum(
                binom.pmf(i, n_error, a) * binom.pmf(j, n_correct, c)
                for (i, j), (low, high) in intervals.items()
                if (i * j == 0 or (i, j) == (n_error, n_correct)) and not low <= f1 <= high
            )
            assert missed <= 0.05 + 1e-12


def test_the_mean_of_sets_of_which_one_has_no_width():
    """Distances to the ends add as squares: sqrt(0.6^2 + 0.1^2) / 2 above, sqrt(0 + 0.2^2) / 2 below."""
    rng = np.random.default_rng(0)
    flat, wide = np.zeros(50), rng.random(50)
    low, high = mean_interval([0.0, 0.5], [(0.0, 0.6), (0.3, 0.6)], [flat, wide])
    assert (low, high) == (pytest.approx(0.25 - 0.1), pytest.approx(0.25 + np.hypot(0.6, 0.1) / 2))
    assert mean_interval([0.0], [(0.0, 0.6)], [flat]) == (0.0, pytest.approx(0.6))
    assert mean_interval([0.4, 0.5], [(0.0, 1.0)] * 2, [wide, wide / 2]) == interval(0.75 * wide)
    assert all(np.isnan(mean_interval([0.0], [(np.nan, np.nan)], [np.zeros(0)])))
