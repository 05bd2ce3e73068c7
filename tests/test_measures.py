"""Measures against SciPy, against tables worked out by hand, and against what must be true of any data."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench import measures
from bench.measures import (
    MEASURES,
    interval,
    kendall,
    measure_cell,
    pearson,
    ranks,
    reflection_rate,
    resample_weights,
    spearman,
)


def cell(clean, adv, mos=None, references=None):
    """images.csv as far as measures read it."""
    count = len(clean)
    return pd.DataFrame(
        {
            "mos": np.linspace(0, 1, count) if mos is None else mos,
            "clean_quality": clean,
            "adv_quality": adv,
            "reference_id": [f"r{i}" for i in range(count)] if references is None else references,
        }
    )


def once(count):
    return np.ones((1, count))


# values from a coarse grid, so that ties are common
grid_values = st.integers(0, 5).map(lambda v: v / 4 - 0.3)


@st.composite
def samples(draw):
    count = draw(st.integers(3, 12))
    a, b = (np.array(draw(st.lists(grid_values, min_size=count, max_size=count))) for _ in range(2))
    held = np.array(draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    return a, b, held


@given(samples())
def test_correlations_under_weights_are_those_of_scipy_on_repeated_rows(case):
    a, b, held = case
    long_a, long_b = np.repeat(a, held), np.repeat(b, held)
    weights = held[None].astype(float)
    constant = len(long_a) < 2 or np.ptp(long_a) == 0 or np.ptp(long_b) == 0
    pairs = [(pearson, stats.pearsonr), (spearman, stats.spearmanr), (kendall, stats.kendalltau)]
    for ours, theirs in pairs:
        with np.errstate(invalid="ignore", divide="ignore"):
            found = float(ours(a, b, weights)[0]) if held.sum() else math.nan
        if constant:
            assert math.isnan(found)
        else:
            # float64 sums of a few dozen numbers of size one
            assert found == pytest.approx(float(theirs(long_a, long_b).statistic), abs=1e-9)


@given(samples())
def test_weighted_ranks_are_scipys_mid_ranks_of_repeated_rows(case):
    a, _, held = case
    expected = stats.rankdata(np.repeat(a, held))
    found = np.repeat(ranks(a, held[None].astype(float))[0], held)
    np.testing.assert_allclose(found, expected)


def test_many_resamples_at_once_are_those_one_by_one():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), rng.normal(size=20).round(1)
    weights = rng.integers(0, 4, (7, 20)).astype(float)
    for formula in (pearson, spearman, kendall, reflection_rate):
        together = formula(a, b, weights)
        np.testing.assert_allclose(together, [formula(a, b, row[None])[0] for row in weights], atol=1e-12)


# clean 0.2, 0.5, 0.8 → attacked 0.3, 0.1, 0.8
HAND = cell([0.2, 0.5, 0.8], [0.3, 0.1, 0.8], mos=[0.1, 0.4, 0.9])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("abs_gain", (0.1 + 0.4 + 0) / 3),
        ("rel_gain", (0.1 / 0.2 + 0.4 / 0.5 + 0) / 3),
        # room: 0.8, 0.5, 0.8; the unmoved picture counts as moved by 1e-6
        ("r_score", (math.log10(0.8 / 0.1) + math.log10(0.5 / 0.4) + math.log10(0.8 / 1e-6)) / 3),
        ("rmse_adv", math.sqrt((0.2**2 + 0.3**2 + 0.1**2) / 3)),
        # of the pairs 12, 13, 23 only the first is turned around
        ("reflection_rate", 1 / 3),
        # ranks 1 2 3 against 2 1 3: 1 − 6·2/(3·8)
        ("stability_srocc", 0.5),
        ("srocc_adv", 0.5),
        ("srocc_clean", 1.0),
        # two pairs agree, one does not
        ("krocc_adv", 1 / 3),
    ],
)
def test_measure_is_the_one_worked_out_by_hand(name, expected):
    assert measure_cell(HAND)[name] == pytest.approx(expected, abs=1e-9)


def test_pearson_measures_are_scipys():
    found = measure_cell(HAND)
    assert found["plcc_clean"] == pytest.approx(stats.pearsonr(HAND.mos, HAND.clean_quality).statistic)
    assert found["plcc_adv"] == pytest.approx(stats.pearsonr(HAND.mos, HAND.adv_quality).statistic)


def test_pairs_that_tie_before_or_after_the_attack_are_not_reversed():
    # pairs of different clean quality: 13, 14, 23, 24, 34. After: 13 reversed, 14 tied, 23 reversed, 24 tied, 34 kept
    clean, adv = np.array([0.1, 0.1, 0.5, 0.9]), np.array([0.4, 0.4, 0.2, 0.4])
    assert float(reflection_rate(clean, adv, once(4))[0]) == pytest.approx(2 / 5)


def test_a_clean_quality_of_zero_leaves_the_ratios_finite():
    found = measure_cell(cell([0.0, 1.0], [0.1, 1.0]))
    assert all(math.isfinite(found[name]) for name in ("rel_gain", "r_score"))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=20, unique=True).filter(lambda v: np.diff(np.sort(v)).min() > 1e-6))
def test_reflecting_all_scores_turns_the_srocc_around(clean):
    clean = np.array(clean)
    mos = np.random.default_rng(0).permutation(np.linspace(0, 1, len(clean)))
    found = measure_cell(cell(clean, 1 - clean, mos))
    assert found["srocc_adv"] == pytest.approx(-found["srocc_clean"])
    assert found["stability_srocc"] == pytest.approx(-1)
    assert found["reflection_rate"] == pytest.approx(1)


def test_a_common_shift_moves_abs_gain_and_no_order():
    clean = np.linspace(0.1, 0.6, 8)
    found = measure_cell(cell(clean, clean + 0.3))
    assert found["abs_gain"] == pytest.approx(0.3)
    assert found["stability_srocc"] == pytest.approx(1)
    assert found["reflection_rate"] == 0


@given(st.randoms(use_true_random=False))
def test_order_of_the_images_changes_nothing(random):
    rng = np.random.default_rng(3)
    table = cell(rng.uniform(size=24), rng.uniform(size=24), rng.uniform(size=24), [f"r{i % 6}" for i in range(24)])
    order = list(range(24))
    random.shuffle(order)
    before, after = measure_cell(table), measure_cell(table.iloc[order])
    assert before.keys() == after.keys()
    for name in before:  # intervals too: float64 sums in another order
        assert after[name] == pytest.approx(before[name], abs=1e-9), name


def test_constant_scores_have_no_correlation_and_no_reflection():
    found = measure_cell(cell([0.5] * 6, [0.7] * 6))
    for name in ("srocc_clean", "srocc_adv", "plcc_clean", "plcc_adv", "krocc_adv", "stability_srocc", "reflection_rate"):
        assert math.isnan(found[name]), name
        assert math.isnan(found[f"{name}_lo"]), name
    assert found["abs_gain"] == pytest.approx(0.2)


def test_scores_that_are_constant_up_to_rounding_count_as_constant():
    near = 0.7 + np.array([0, 1, -1, 1, 0, -1]) * 1e-16
    assert math.isnan(float(pearson(near, np.arange(6.0), once(6))[0]))


def test_two_images_are_enough_for_a_value_and_one_is_not():
    found = measure_cell(cell([0.2, 0.6], [0.7, 0.3]))
    assert found["stability_srocc"] == pytest.approx(-1)
    assert found["reflection_rate"] == 1
    alone = measure_cell(cell([0.2], [0.7]))
    assert alone.keys() == found.keys()
    assert all(math.isnan(value) for value in alone.values())


def test_pictures_without_a_score_are_left_out():
    table = cell([0.2, 0.5, 0.8, 0.4, math.nan], [0.3, 0.1, 0.8, math.nan, 0.4], mos=[0.1, 0.4, 0.9, 0.5, 0.6])
    assert measure_cell(table)["rmse_adv"] == pytest.approx(measure_cell(HAND)["rmse_adv"])


def test_every_measure_has_its_interval_and_the_interval_holds_it():
    rng = np.random.default_rng(1)
    clean = rng.uniform(size=40)
    found = measure_cell(
        cell(clean, clean + rng.normal(0, 0.2, 40), rng.uniform(size=40), [f"r{i // 4}" for i in range(40)])
    )
    assert found.keys() == {f"{name}{end}" for name in MEASURES for end in ("", "_lo", "_hi")}
    for name in MEASURES:
        assert found[f"{name}_lo"] <= found[name] <= found[f"{name}_hi"], name
        assert found[f"{name}_lo"] < found[f"{name}_hi"], name


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
    value, low, high = interval(replicates)
    assert (value, low, high) == pytest.approx((0.5, 0.025, 0.975))
    assert interval(np.array([2.0, 0.1, 0.2]))[2] == 2.0
    assert interval(np.array([-2.0, 0.1, 0.2]))[1] == -2.0
    assert all(math.isnan(end) for end in interval(np.array([0.5, np.nan]))[1:])


def test_interval_covers_the_truth_of_clustered_data_about_as_often_as_it_says():
    """200 sets of 30 references with 4 pictures each; a shift is a reference's part plus a picture's own."""
    rng = np.random.default_rng(0)
    trials, covered, naive = 200, 0, 0
    references = [f"r{i // 4}" for i in range(120)]
    weights = resample_weights(references, 400)
    alone = resample_weights([f"i{i}" for i in range(120)], 400)
    formula = MEASURES["abs_gain"]
    for _ in range(trials):
        shift = 1 + np.repeat(rng.normal(0, 0.2, 30), 4) + rng.normal(0, 0.1, 120)  # stays positive: |shift| is 1 on average
        table = {"clean": np.zeros(120), "adv": shift}
        _, low, high = interval(formula(table, weights))
        covered += low <= 1 <= high
        _, low, high = interval(formula(table, alone))
        naive += low <= 1 <= high
    # a percentile bootstrap over 30 clusters covers some 93 %; the binomial spread over 200 trials is 1.8 %, so 87 to 99 %
    # is three spreads around it. Taking pictures for independent covers some 70 %, far below
    assert 0.87 <= covered / trials <= 0.99
    assert naive / trials < 0.85


def test_module_names_no_measure_that_the_summary_lacks():
    from bench.records import SUMMARY_COLUMNS

    assert set(measures.MEASURES) <= set(SUMMARY_COLUMNS)
