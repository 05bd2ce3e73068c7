"""Distortions and pseudo-MOS labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iqarena.bench.datasets.demo.distortions import DISTORTIONS
from iqarena.bench.datasets.demo.pseudo_mos import LOWER_IS_BETTER, MEASURES, fit_consensus, load_consensus, pseudo_mos

BY_NAME = pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda d: d.name)


def stream(seed=0):
    return np.random.RandomState(seed)


@BY_NAME
def test_distortion_repeats_exactly_keeps_shape_and_type_and_leaves_its_input_alone(distortion, natural):
    before = natural.copy()
    for level in (1, 2.5, 5):
        first = distortion.apply(natural, level, stream())
        assert first.dtype == np.uint8
        assert first.shape == natural.shape
        assert (first == distortion.apply(natural, level, stream())).all()
        assert (first != natural).any()
    assert (natural == before).all()


@BY_NAME
def test_distortion_takes_images_that_are_not_square(distortion, natural):
    assert distortion.apply(natural[:33, :47].copy(), 3, stream()).shape == (33, 47, 3)


@BY_NAME
def test_distortion_does_not_touch_the_global_random_stream(distortion, natural):
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    distortion.apply(natural, 3, stream())
    assert (np.random.get_state()[1] == state).all()


@BY_NAME
def test_a_higher_level_is_farther_from_the_image(distortion, natural):
    errors = [
        float(((distortion.apply(natural, level, stream()).astype(float) - natural) ** 2).mean()) for level in range(1, 6)
    ]
    # motion blur turns with the image's own edges and a lens shift may come back into step with a texture, but the
    # streams are the same for all levels, so even these grow; nothing needs an exception on this crop
    assert all(low < high for low, high in itertools.pairwise(errors)), errors


@BY_NAME
def test_levels_between_the_five_are_interpolated(distortion):
    seen = []
    probe = type(distortion)(distortion.name, distortion.ladder, lambda image, strength, _: seen.append(strength) or image)
    for level in (1, 1.5, 5):
        probe.apply(np.zeros((1, 1, 3), np.uint8), level, stream())
    assert seen == pytest.approx([distortion.ladder[0], sum(distortion.ladder[:2]) / 2, distortion.ladder[4]])


@BY_NAME
def test_distortion_copes_with_flat_images(distortion):
    for level in (0, 255):
        out = distortion.apply(np.full((40, 40, 3), level, np.uint8), 5, stream())
        assert out.shape == (40, 40, 3)


# --- pseudo-MOS

PERFECT = np.array([[1.0, 1.0, 1.0, 0.0, 0.0]])  # fsim, haarpsi and vif_p of an image with itself are 1, gmsd and mdsi 0


def test_pseudo_mos_of_a_pristine_image_is_the_best_but_for_what_vif_counts_as_better():
    label = float(pseudo_mos(PERFECT, load_consensus())[0])
    # VIF exceeds 1 for enhanced contrast, in a hundredth of the training set: a fifth of that is missing to 1
    assert 0.995 < label <= 1
    assert label == pytest.approx(0.99801, abs=1e-5)  # what the manifest has


@given(
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
    st.integers(0, 4),
    st.floats(0, 0.5),
)
def test_pseudo_mos_rises_with_every_measure_in_its_own_direction(values, which, more):
    consensus = load_consensus()
    table = np.array([values, values])
    table[1, which] += more
    before, after = pseudo_mos(table, consensus)
    assert 0 <= before <= 1
    if MEASURES[which] in LOWER_IS_BETTER:
        assert after <= before + 1e-12
    else:
        assert after >= before - 1e-12


@pytest.mark.parametrize("name", MEASURES)
def test_pseudo_mos_turns_the_lower_is_better_measures_around(name):
    consensus = load_consensus()
    column = MEASURES.index(name)
    median = np.array([consensus[m][50] for m in MEASURES])
    table = np.array([median, median])
    table[0, column], table[1, column] = consensus[name][10], consensus[name][90]
    low, high = pseudo_mos(table, consensus)
    assert (name in LOWER_IS_BETTER) == (name in {"gmsd", "mdsi"})
    # 80 percentiles of one of five measures
    assert (low - high if name in LOWER_IS_BETTER else high - low) == pytest.approx(0.16)


def test_pseudo_mos_of_the_worst_is_zero_and_of_the_median_one_half():
    consensus = load_consensus()
    worst = [[consensus[m][100 if m in LOWER_IS_BETTER else 0] for m in MEASURES]]
    assert float(pseudo_mos(np.array(worst), consensus)[0]) == pytest.approx(0)
    assert float(pseudo_mos(np.array([[consensus[m][50] for m in MEASURES]]), consensus)[0]) == pytest.approx(0.5)


def test_consensus_is_increasing_percentiles():
    for name, percentiles in load_consensus().items():
        assert len(percentiles) == 101, name
        assert (np.diff(percentiles) >= 0).all(), name
    assert tuple(load_consensus()) == MEASURES


def test_labels_of_the_set_that_the_percentiles_are_of_spread_evenly():
    measures = np.random.default_rng(0).normal(size=(1000, 1)) * np.array([1, 1, 1, -1, -1])
    consensus = fit_consensus(measures)
    labels = np.sort(pseudo_mos(measures, consensus))
    # all five agree, so the label is the rank itself; 101 percentiles are joined by lines
    np.testing.assert_allclose(labels, np.linspace(0, 1, 1000), atol=0.01)
