"""Measures against tables worked out by hand, against SciPy, and against properties that hold for any data."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from iqarena.bench.metrics.logistic import fit
from iqarena.bench.metrics.measures import MEASURES, WITH_LABELS, Scores, columns, image_table, measure_cell
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.results.columns import SUMMARY_COLUMNS

BY_NAME = {measure.__name__: measure for measure in MEASURES}


def cell(clean, adv, mos=None, references=None, undefended=None):
    """Return the columns of images.csv that measures read."""
    count = len(clean)
    return pd.DataFrame(
        {
            "mos": np.linspace(0, 1, count) if mos is None else mos,
            "clean_quality": clean,
            "adv_quality": adv,
            "undefended_clean_quality": clean if undefended is None else undefended,
            "reference_id": [f"r{i}" for i in range(count)] if references is None else references,
        }
    )


def values(images):
    """Return the measures without their intervals, which takes a fraction of the time."""
    table = image_table(images)
    scores = Scores(table, ResampledStatistics(np.ones((1, len(table["clean"])))))
    return {name: float(measure(scores)[0]) for name, measure in BY_NAME.items()}


# clean 0.2, 0.5, 0.8 → attacked 0.3, 0.1, 0.8; the undefended model said 0.25, 0.5, 0.7
HAND = cell([0.2, 0.5, 0.8], [0.3, 0.1, 0.8], mos=[0.1, 0.4, 0.9], undefended=[0.25, 0.5, 0.7])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("abs_gain", (0.1 + 0.4 + 0) / 3),
        ("rel_gain", (0.1 / 0.2 + 0.4 / 0.5 + 0) / 3),
        ("robust_abs_gain", (0.05 + 0.4 + 0.1) / 3),
        ("robust_rel_gain", (0.05 / 0.25 + 0.4 / 0.5 + 0.1 / 0.7) / 3),
        # quartiles of 0.2, 0.5, 0.8 are 0.35 and 0.65
        ("abs_gain_iqr", (0.1 + 0.4 + 0) / 3 / 0.3),
        # shifts 0, 0.1, 0.4; the 95 % quantile is nine tenths of the way from the second to the third
        ("shift_median", 0.1),
        ("shift_p95", 0.1 + 0.9 * 0.3),
        # room: 0.8, 0.5, 0.8; the unmoved image counts as moved by 1e-6
        ("r_score", (math.log10(0.8 / 0.1) + math.log10(0.5 / 0.4) + math.log10(0.8 / 1e-6)) / 3),
        # scaled by 0.2 … 0.8: x = 0, ½, 1, moved by 1/6, 2/3, 0; room 1, ½, 1
        ("r_score_minmax", (-math.log10(1 / 6 + 1e-6) + math.log10(0.5 / (2 / 3 + 1e-6)) + 6) / 3),
        ("rmse_adv", math.sqrt((0.2**2 + 0.3**2 + 0.1**2) / 3)),
        ("rmse_clean", math.sqrt((0.1**2 + 0.1**2 + 0.1**2) / 3)),
        ("stability_rmse", math.sqrt((0.1**2 + 0.4**2) / 3)),
        # of the pairs 12, 13, 23 only the first is turned around
        ("reflection_rate", 1 / 3),
        # ranks 1 2 3 against 2 1 3: 1 − 6·2/(3·8)
        ("stability_srocc", 0.5),
        ("srocc_adv", 0.5),
        ("srocc_clean", 1.0),
        # two pairs agree, one does not
        ("krocc_adv", 1 / 3),
        ("stability_krocc", 1 / 3),
        ("krocc_clean", 1.0),
        # sorted 0.2 0.5 0.8 against 0.1 0.3 0.8: |differences| 0.1, 0.2, 0; the mean sank from 0.5 to 0.4
        ("wasserstein", -0.1),
        # F − F′ is −⅓ from 0.1 to 0.2 and from 0.3 to 0.5
        ("energy_distance", -math.sqrt(2 * (0.1 + 0.2) / 9)),
    ],
)
def test_measure_is_the_one_worked_out_by_hand(name, expected):
    assert values(HAND)[name] == pytest.approx(expected, abs=1e-9)


RNG = np.random.default_rng(5)
MOS = RNG.uniform(size=60)
CLEAN = 0.2 + 0.5 / (1 + np.exp(-6 * (MOS - 0.5))) + RNG.normal(0, 0.03, 60)
LARGE = cell(CLEAN, 1 - CLEAN + RNG.normal(0, 0.05, 60), MOS, [f"r{i // 5}" for i in range(60)])


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("srocc_clean", ("mos", "clean_quality"), stats.spearmanr),
        ("srocc_adv", ("mos", "adv_quality"), stats.spearmanr),
        ("stability_srocc", ("clean_quality", "adv_quality"), stats.spearmanr),
        ("plcc_clean", ("mos", "clean_quality"), stats.pearsonr),
        ("plcc_adv", ("mos", "adv_quality"), stats.pearsonr),
        ("stability_plcc", ("clean_quality", "adv_quality"), stats.pearsonr),
        ("krocc_clean", ("mos", "clean_quality"), stats.kendalltau),
        ("krocc_adv", ("mos", "adv_quality"), stats.kendalltau),
        ("stability_krocc", ("clean_quality", "adv_quality"), stats.kendalltau),
    ],
)
def test_correlation_of_a_cell_is_scipys(name, ours, theirs):
    one, other = (LARGE[column] for column in ours)
    assert values(LARGE)[name] == pytest.approx(float(theirs(one, other).statistic), abs=1e-12)


# --- the fitted curve


def logistic(q, b1, b2, b3, b4):
    return (b1 - b2) / (1 + np.exp(-(q - b3) / abs(b4))) + b2


def test_a_curve_that_is_there_is_found():
    q = np.linspace(0, 1, 40)
    labels = logistic(q, 0.9, 0.1, 0.4, 0.15)
    # least squares stops where the sum of squares no longer changes in its eighth digit
    np.testing.assert_allclose(fit(q, labels)(q), labels, atol=1e-6)
    np.testing.assert_allclose(fit(q, 1 - labels)(q), 1 - labels, atol=1e-6)


def test_fitted_measures_are_those_after_scipys_curve_fit():
    q, adv, y = (LARGE[column].to_numpy() for column in ("clean_quality", "adv_quality", "mos"))
    beta, _ = optimize.curve_fit(logistic, q, y, p0=[y.max(), y.min(), q.mean(), q.std() / 4], maxfev=20000)
    result = values(LARGE)
    # two optimisers stop at slightly different places near the same least sum of squares
    assert result["plcc_clean_fitted"] == pytest.approx(stats.pearsonr(logistic(q, *beta), y).statistic, abs=1e-5)
    assert result["plcc_adv_fitted"] == pytest.approx(stats.pearsonr(logistic(adv, *beta), y).statistic, abs=1e-4)
    assert result["rmse_clean_fitted"] == pytest.approx(np.sqrt(np.mean((logistic(q, *beta) - y) ** 2)), abs=1e-5)
    assert result["rmse_adv_fitted"] == pytest.approx(np.sqrt(np.mean((logistic(adv, *beta) - y) ** 2)), abs=1e-4)


def test_the_curve_takes_the_bend_out_and_a_reversed_ranking_stays_reversed():
    result = measure_cell(LARGE)
    assert result["plcc_clean_fitted"] > result["plcc_clean"]
    assert result["plcc_adv_fitted"] < -0.8


@settings(max_examples=15)
@given(st.floats(0.1, 1e4), st.floats(-1e3, 1e3))
def test_fitted_measures_do_not_depend_on_the_scale_of_scores(scale, shift):
    moved = LARGE.assign(**{c: scale * LARGE[c] + shift for c in ("clean_quality", "adv_quality")})
    before, after = values(LARGE.head(20)), values(moved.head(20))
    for name in ("plcc_clean_fitted", "rmse_clean_fitted"):
        assert after[name] == pytest.approx(before[name], abs=1e-6)


def test_without_enough_to_fit_there_is_no_curve():
    q = np.linspace(0, 1, 8)
    for qualities, labels in ((q[:4], q[:4]), (q * 0, q), (q, q * 0), (q, np.where(q > 0.5, q, np.nan))):
        assert np.isnan(fit(qualities, labels)(qualities)).all()


# --- edges


def test_a_clean_quality_of_zero_leaves_the_ratios_finite():
    result = measure_cell(cell([0.0, 1.0], [0.1, 1.0]))
    assert all(math.isfinite(result[name]) for name in ("rel_gain", "robust_rel_gain", "r_score", "r_score_minmax"))


def test_constant_scores_have_no_correlation_no_reflection_and_no_spread():
    result = measure_cell(cell([0.5] * 6, [0.7] * 6))
    nothing = ["srocc_clean", "srocc_adv", "plcc_clean", "plcc_adv", "krocc_clean", "krocc_adv", "reflection_rate",
               "stability_srocc", "stability_plcc", "stability_krocc", "plcc_clean_fitted", "plcc_adv_fitted",
               "rmse_clean_fitted", "rmse_adv_fitted", "abs_gain_iqr", "r_score_minmax"]  # fmt: skip
    for name in BY_NAME:
        assert math.isnan(result[name]) == math.isnan(result[f"{name}_lo"]) == (name in nothing), name
    assert result["abs_gain"] == result["shift_median"] == result["wasserstein"] == pytest.approx(0.2)


def test_two_images_are_enough_for_a_value_and_one_is_not():
    result = measure_cell(cell([0.2, 0.6], [0.7, 0.3]))
    assert result["stability_srocc"] == pytest.approx(-1)
    assert result["reflection_rate"] == 1
    assert result["abs_gain_iqr"] == pytest.approx(0.4 / 0.2)
    alone = measure_cell(cell([0.2], [0.7]))
    assert alone.keys() == result.keys()
    assert all(math.isnan(value) for value in alone.values())


def test_images_without_a_score_are_left_out():
    table = cell([0.2, 0.5, 0.8, 0.4, math.nan], [0.3, 0.1, 0.8, math.nan, 0.4], mos=[0.1, 0.4, 0.9, 0.5, 0.6])
    assert measure_cell(table)["rmse_adv"] == pytest.approx(measure_cell(HAND)["rmse_adv"])


def test_images_without_labels_have_the_measures_that_need_none():
    result = measure_cell(cell([0.2, 0.5, 0.8], [0.3, 0.1, 0.8], mos=[math.nan] * 3))
    for name in BY_NAME:
        needs = name.startswith(("srocc", "plcc", "krocc", "rmse"))
        assert math.isnan(result[name]) == needs, name


# --- properties that hold for any data

qualities = st.lists(st.floats(0, 1), min_size=3, max_size=20, unique=True).filter(
    lambda v: np.diff(np.sort(v)).min() > 1e-6
)


@settings(max_examples=15)
@given(qualities)
def test_reflecting_all_scores_turns_every_correlation_around(clean):
    clean = np.array(clean)
    mos = np.random.default_rng(0).permutation(np.linspace(0, 1, len(clean)))
    result = values(cell(clean, 1 - clean, mos))
    for name in ("srocc", "krocc", "plcc"):
        assert result[f"{name}_adv"] == pytest.approx(-result[f"{name}_clean"])
    for name in ("stability_srocc", "stability_plcc", "stability_krocc"):
        assert result[name] == pytest.approx(-1)
    assert result["reflection_rate"] == pytest.approx(1)


@settings(max_examples=15)
@given(qualities, st.floats(0.001, 0.5), st.floats(1.01, 3))
def test_the_larger_the_shift_the_lower_both_r_scores_and_the_higher_the_gains(clean, shift, factor):
    clean = np.array(clean)
    less, more = values(cell(clean, clean + shift)), values(cell(clean, clean + factor * shift))
    for name in ("r_score", "r_score_minmax"):
        assert more[name] < less[name], name
    for name in ("abs_gain", "rel_gain", "abs_gain_iqr", "shift_median", "shift_p95", "stability_rmse", "wasserstein",
                 "robust_abs_gain", "robust_rel_gain"):  # fmt: skip
        assert more[name] > less[name], name


def test_a_common_shift_moves_gains_and_no_order():
    clean = np.linspace(0.1, 0.6, 8)
    result = values(cell(clean, clean + 0.3))
    for name in ("abs_gain", "shift_median", "shift_p95", "stability_rmse", "wasserstein"):
        assert result[name] == pytest.approx(0.3)
    assert result["stability_srocc"] == result["stability_krocc"] == pytest.approx(1)
    assert result["reflection_rate"] == 0
    down = values(cell(clean, clean - 0.3))
    assert (down["wasserstein"], down["energy_distance"]) == pytest.approx((-0.3, -result["energy_distance"]))


@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_order_of_the_images_changes_nothing(random):
    rng = np.random.default_rng(3)
    table = cell(rng.uniform(size=24), rng.uniform(size=24), rng.uniform(size=24), [f"r{i % 6}" for i in range(24)])
    order = list(range(24))
    random.shuffle(order)
    before, after = measure_cell(table), measure_cell(table.iloc[order])
    assert before.keys() == after.keys()
    for name in before:  # intervals too: float64 sums in another order, and a fit by least squares on them
        assert after[name] == pytest.approx(before[name], abs=1e-6 if "fitted" in name else 1e-9), name


@settings(max_examples=15)
@given(st.floats(0.05, 20))
def test_a_model_that_uses_little_of_its_range_does_not_look_robust_in_its_own_spread(narrow):
    squeezed = LARGE.assign(**{c: 0.5 + narrow * (LARGE[c] - 0.5) for c in ("clean_quality", "adv_quality")}).head(20)
    before, after = values(LARGE.head(20)), values(squeezed)
    assert after["abs_gain"] == pytest.approx(narrow * before["abs_gain"])
    for name in ("abs_gain_iqr", "r_score_minmax"):
        assert after[name] == pytest.approx(before[name], abs=1e-4 if name == "r_score_minmax" else 1e-9)


# --- intervals and names


def test_every_measure_has_its_interval_and_the_interval_holds_it():
    rng = np.random.default_rng(1)
    clean = rng.uniform(size=40)
    result = measure_cell(
        cell(clean, clean + rng.normal(0, 0.2, 40), rng.uniform(size=40), [f"r{i // 4}" for i in range(40)],
             clean + rng.normal(0, 0.1, 40))
    )  # fmt: skip
    assert list(result) == columns()
    for name in BY_NAME:
        assert result[f"{name}_lo"] <= result[name] <= result[f"{name}_hi"], name
        assert result[f"{name}_lo"] < result[f"{name}_hi"], name


def test_every_measure_is_in_the_summary_and_the_first_ones_where_they_always_were():
    assert set(columns()) <= set(SUMMARY_COLUMNS)
    assert [m.__name__ for m in MEASURES][:11] == [
        "srocc_clean", "srocc_adv", "plcc_clean", "plcc_adv", "krocc_adv", "rmse_adv", "stability_srocc", "abs_gain",
        "rel_gain", "r_score", "reflection_rate",
    ]  # fmt: skip
    assert SUMMARY_COLUMNS.index("source") == SUMMARY_COLUMNS.index("flags") + 1 < SUMMARY_COLUMNS.index("krocc_clean")


@pytest.mark.parametrize("measure", MEASURES, ids=BY_NAME)
def test_every_measure_says_what_it_is_its_formula_and_its_range_and_direction(measure):
    what, formula, rest = inspect.getdoc(measure).split("\n\n")
    assert what.endswith(".")
    assert formula
    assert rest[0] in "[("
    assert any(word in rest for word in ("higher is", "lower is", "near 0 is"))


def test_measures_with_labels_are_those_of_the_labelled_images_alone_and_the_others_of_all():
    clean, adv, mos = [0.2, 0.5, 0.8, 0.4, 0.9, 0.1], [0.3, 0.1, 0.8, 0.6, 0.2, 0.5], [0.1, 0.4, math.nan, 0.5, 0.6, 0.2]
    whole, table = measure_cell(cell(clean, adv, mos=mos)), cell(clean, adv, mos=mos)
    labelled = measure_cell(table[table.mos.notna()].reset_index(drop=True))
    everything = measure_cell(cell(clean, adv, mos=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]))
    for name, measure in BY_NAME.items():
        for end in ("", "_lo", "_hi"):
            expected = labelled if measure in WITH_LABELS else everything
            assert whole[name + end] == pytest.approx(expected[name + end], nan_ok=True), name
    assert whole["srocc_clean"] == pytest.approx(0.8)  # ranks 2 4 3 5 1 and 1 3 4 5 2: 1 − 6 · 4 / 120


def test_one_label_is_none():
    assert math.isnan(measure_cell(cell([0.2, 0.5], [0.3, 0.1], mos=[0.5, math.nan]))["rmse_adv"])
