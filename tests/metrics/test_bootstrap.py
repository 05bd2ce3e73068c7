"""Resampling of references, coverage of intervals, p values and their correction, shared ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iqarena.bench.metrics.bootstrap import holm, interval, over_seeds, p_value, resample_weights, shared_ranks
from iqarena.bench.metrics.resampled import ResampledStatistics


def test_resamples_bring_whole_references_and_begin_with_the_sample():
    references = ["b", "a", "b", "c", "a", "b"]
    weights = resample_weights(references, resamples=200)
    assert weights.shape == (201, 6)
    assert (weights[0] == 1).all()
    for one, other in ((0, 2), (2, 5), (1, 4)):
        assert (weights[:, one] == weights[:, other]).all()
    assert (weights[1:, [0, 1, 3]].sum(axis=1) == 3).all()  # three references are drawn, with replacement
    assert len(np.unique(weights[1:, [0, 1, 3]], axis=0)) > 5


def test_resamples_depend_on_the_set_of_references_and_the_seed_alone():
    first = resample_weights(["a", "b", "c"], 50)
    assert (resample_weights(["c", "a", "b", "a"], 50)[:, [1, 2, 0]] == first).all()
    assert not (resample_weights(["a", "b", "c"], 50, seed=1) == first).all()
    assert not (resample_weights(["a", "b", "d"], 50) == first).all()


def test_interval_takes_percentiles_without_missing_resamples_and_holds_the_value():
    replicates = np.concatenate([[0.5], np.linspace(0, 1, 1001), [np.nan] * 7])
    assert interval(replicates) == pytest.approx((0.5, 0.025, 0.975))
    assert interval(np.array([2.0, 0.1, 0.2]))[2] == 2.0
    assert interval(np.array([-2.0, 0.1, 0.2]))[1] == -2.0
    assert all(math.isnan(end) for end in interval(np.array([0.5, np.nan]))[1:])


# --- coverage

SETS, CLUSTERS, EACH = 2000, 100, 3


def clustered(rng, spread, own):
    """Draw values (SETS, images): a part shared by the images of a reference, and an individual part of each image."""
    shared = np.repeat(rng.normal(0, spread, (SETS, CLUSTERS)), EACH, axis=1)
    return shared + rng.normal(0, own, shared.shape)


def coverage(low, high, truth):
    return float(((low <= truth) & (truth <= high)).mean())


def test_the_interval_of_a_mean_covers_the_truth_of_clustered_data_and_one_that_takes_images_alone_does_not():
    shift = 1 + clustered(np.random.default_rng(0), 0.2, 0.1)
    covered = {}
    for name, references in (("references", np.repeat(np.arange(CLUSTERS), EACH)), ("images", np.arange(shift.shape[1]))):
        weights = resample_weights([f"r{i}" for i in references], 1000)
        means = (weights / weights.sum(1, keepdims=True)) @ shift.T  # one column for each data set
        covered[name] = coverage(*np.percentile(means[1:], [2.5, 97.5], axis=0), 1)
    # 95 % give or take four binomial errors of 0.5 %, that of 2,000 sets
    assert 0.93 <= covered["references"] <= 0.97
    assert covered["images"] < 0.85


def test_the_interval_of_a_rank_correlation_covers_the_truth_of_clustered_data():
    rng = np.random.default_rng(1)
    one = clustered(rng, 1, 1) / math.sqrt(2)
    other = 0.6 * one + 0.8 * clustered(rng, 1, 1) / math.sqrt(2)
    truth = 6 / math.pi * math.asin(0.6 / 2)  # Spearman's of two normal variables whose Pearson's is 0.6
    sample = ResampledStatistics.of([f"r{i // EACH}" for i in range(CLUSTERS * EACH)], 300)
    count = 400  # of the sets, for time; four binomial errors are then 4.4 %
    intervals = [interval(sample.spearman(a, b)) for a, b in zip(one[:count], other[:count], strict=True)]
    _, low, high = np.array(intervals).T
    assert 0.905 <= coverage(low, high, truth) <= 0.99


# --- comparisons


def test_p_is_twice_the_smaller_side():
    # of 99 resamples two are below zero: 2 · (2 + 1) / (99 + 1)
    replicates = np.concatenate([[-1, -2], np.linspace(0.1, 1, 97)])
    assert p_value(np.concatenate([[0.5], replicates])) == pytest.approx(0.06)
    assert p_value(np.concatenate([[-0.5], -replicates])) == pytest.approx(0.06)
    assert p_value(np.concatenate([[0.5], np.full(99, 0.5)])) == pytest.approx(0.02), "never zero"
    assert p_value(np.zeros(100)) == 1
    assert math.isnan(p_value(np.array([np.nan, 1, 2])))


def test_p_is_small_as_often_as_it_says_where_there_is_no_difference():
    rng = np.random.default_rng(2)
    difference = clustered(rng, 0.2, 0.1)
    weights = resample_weights([f"r{i // EACH}" for i in range(CLUSTERS * EACH)], 1000)
    means = (weights / weights.sum(1, keepdims=True)) @ difference.T
    p = np.array([p_value(column) for column in means.T])
    for level in (0.05, 0.2):
        # four binomial errors, and the half percent that the percentile bootstrap is too bold by with 100 references
        assert (p <= level).mean() == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / SETS) + 0.01)


def test_holm_steps_down():
    # sorted 0.01 0.02 0.03 0.5 times 4 3 2 1 is 0.04 0.06 0.06 0.5
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    result = holm([0.01, float("nan"), 0.04])
    assert result[::2] == pytest.approx([0.02, 0.04])
    assert math.isnan(result[1])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_the_p_and_bonferroni(p_values):
    result = holm(p_values)
    for p, q in zip(p_values, result, strict=True):
        assert p <= q <= min(len(p_values) * p, 1) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(result)[order]) >= 0).all()


def test_ranks_are_shared_where_intervals_overlap():
    a, b, c, d = (0.9, 0.8, 1.0), (0.75, 0.7, 0.8), (0.6, 0.5, 0.69), (0.1, 0.0, 0.2)
    assert shared_ranks([c, a, d, b]) == [3, 1, 4, 1]
    assert shared_ranks([]) == []


# --- seeds of training


def test_seeds_are_averaged_and_resampled_with_the_references():
    rng = np.random.default_rng(0)
    level = np.array([[0.4], [0.5], [0.6]])
    values = level + rng.normal(0, 0.01, (3, 4001))
    values[:, 0] = level[:, 0]
    result = over_seeds(values)
    assert result.shape == (4001,)
    assert result[0] == pytest.approx(0.5)
    # the mean of three draws of three levels: variance ((0.1² + 0 + 0.1²) / 3) / 3, and that of the resamples
    assert result[1:].std() == pytest.approx(math.sqrt(0.02 / 9 + 0.01**2 / 3), rel=0.05)
    assert interval(result)[2] - interval(result)[1] > 3 * (interval(values[1])[2] - interval(values[1])[1])


def test_one_seed_adds_nothing():
    values = np.random.default_rng(0).normal(size=(1, 50))
    np.testing.assert_array_equal(over_seeds(values), values[0])
