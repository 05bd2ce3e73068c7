"""Statistics under weights against SciPy and NumPy on lists that repeat each value as often as it counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iqarena.bench.metrics import weighted
from iqarena.bench.metrics.resampled import ResampledStatistics

# values from a coarse grid, so that ties are common
grid_values = st.integers(0, 5).map(lambda v: v / 4 - 0.3)


@st.composite
def lists(draw):
    count = draw(st.integers(3, 12))
    a, b = (np.array(draw(st.lists(grid_values, min_size=count, max_size=count))) for _ in range(2))
    repeats = np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    return a, b, repeats


def one(repeats):
    return ResampledStatistics(np.asarray(repeats, dtype=float)[None])


def once(count):
    return ResampledStatistics(np.ones((1, count)))


@given(lists())
def test_correlations_are_those_of_scipy(case):
    a, b, repeats = case
    long_a, long_b = np.repeat(a, repeats), np.repeat(b, repeats)
    constant = len(long_a) < 2 or np.ptp(long_a) == 0 or np.ptp(long_b) == 0
    pairs = [
        (ResampledStatistics.pearson, stats.pearsonr),
        (ResampledStatistics.spearman, stats.spearmanr),
        (ResampledStatistics.kendall, stats.kendalltau),
    ]
    for ours, theirs in pairs:
        result = float(ours(one(repeats), a, b)[0]) if repeats.sum() else math.nan
        if constant:
            assert math.isnan(result), ours
        else:
            # float64 sums of a few dozen numbers of size one
            assert result == pytest.approx(float(theirs(long_a, long_b).statistic), abs=1e-9), ours


@given(lists(), st.sampled_from([0.0, 0.25, 0.5, 0.95, 1.0]))
def test_quantiles_are_numpys(case, share):
    a, _, repeats = case
    if repeats.sum():
        # between two neighbours NumPy weighs the nearer one, which rounds in another way
        assert float(one(repeats).quantile(a, share)[0]) == pytest.approx(
            np.quantile(np.repeat(a, repeats), share), abs=1e-12
        )


@given(lists())
def test_distances_of_distributions_are_those_of_scipy(case):
    a, b, repeats = case
    if repeats.sum():
        long_a, long_b = np.repeat(a, repeats), np.repeat(b, repeats)
        assert float(one(repeats).wasserstein(a, b)[0]) == pytest.approx(
            stats.wasserstein_distance(long_a, long_b), abs=1e-12
        )
        # the root of a rounding error of 1e-16 is 1e-8
        assert float(one(repeats).energy(a, b)[0]) == pytest.approx(stats.energy_distance(long_a, long_b), abs=1e-7)


@given(lists())
def test_reversed_pairs_are_those_that_a_loop_counts(case):
    a, b, repeats = case
    long_a, long_b = np.repeat(a, repeats), np.repeat(b, repeats)
    ordered = [(i, j) for i in range(len(long_a)) for j in range(len(long_a)) if long_a[i] < long_a[j]]
    result = float(one(repeats).reversed_share(a, b)[0])
    if not ordered:
        assert math.isnan(result)
    else:
        assert result == pytest.approx(sum(long_b[i] > long_b[j] for i, j in ordered) / len(ordered), abs=1e-12)


def test_pairs_that_tie_before_or_after_are_not_reversed():
    # pairs of different first values: 13, 14, 23, 24, 34. After: 13 reversed, 14 tied, 23 reversed, 24 tied, 34 kept
    before, after = np.array([0.1, 0.1, 0.5, 0.9]), np.array([0.4, 0.4, 0.2, 0.4])
    assert float(once(4).reversed_share(before, after)[0]) == pytest.approx(2 / 5)


def statistics(sample, a, b):
    """Compute every statistic."""
    return {
        "mean": sample.mean(a), "pearson": sample.pearson(a, b), "spearman": sample.spearman(a, b),
        "kendall": sample.kendall(a, b), "reversed": sample.reversed_share(a, b), "quantile": sample.quantile(b, 0.3),
        "wasserstein": sample.wasserstein(a, b), "energy": sample.energy(a, b),
    }  # fmt: skip


def test_many_resamples_at_once_are_those_one_by_one_in_any_block(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), rng.normal(size=20).round(1)
    weights = rng.integers(0, 4, (7, 20)).astype(float)
    separate = [statistics(ResampledStatistics(row[None]), a, b) for row in weights]
    for block in (1, 60, 2**15):
        monkeypatch.setattr(weighted, "BLOCK", block)
        monkeypatch.setattr(weighted, "_ROWS", block)
        for name, result in statistics(ResampledStatistics(weights), a, b).items():
            np.testing.assert_allclose(result, [float(one[name][0]) for one in separate], atol=1e-12, err_msg=name)


def test_groups_of_images_with_the_same_weights_change_nothing():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 5, 30)
    a, b = rng.normal(size=30).round(1), rng.normal(size=30)
    weights = rng.integers(0, 4, (9, 5)).astype(float)[:, groups]
    grouped, separate = (
        statistics(ResampledStatistics(weights, groups), a, b),
        statistics(ResampledStatistics(weights), a, b),
    )
    for name, result in grouped.items():
        np.testing.assert_allclose(result, separate[name], atol=1e-12, err_msg=name)


def test_several_rank_correlations_at_once_are_those_one_by_one():
    rng = np.random.default_rng(2)
    sample = ResampledStatistics.of([f"r{i // 3}" for i in range(21)], 50)
    a, others = rng.normal(size=21), [rng.normal(size=21).round(1) for _ in range(3)]
    for result, other in zip(sample.spearmans(a, others), others, strict=True):
        np.testing.assert_array_equal(result, sample.spearman(a, other))


def test_missing_values_and_constants_give_nan_and_no_warning():
    a, hole, flat = np.arange(4.0), np.array([0.1, math.nan, 0.3, 0.4]), np.full(4, 0.7)
    for name, result in statistics(once(4), a, hole).items():
        assert name == "mean" or np.isnan(result).all(), name
    for name in ("pearson", "spearman", "kendall"):
        assert np.isnan(statistics(once(4), a, flat)[name]).all(), name
        assert np.isnan(statistics(once(4), flat, a)[name]).all(), name
    assert np.isnan(once(4).reversed_share(flat, a)).all()
    assert float(once(4).reversed_share(a, flat)[0]) == 0


def test_values_that_are_constant_up_to_rounding_count_as_constant():
    near = 0.7 + np.array([0, 1, -1, 1, 0, -1]) * 1e-16
    assert math.isnan(float(once(6).pearson(near, np.arange(6.0))[0]))
