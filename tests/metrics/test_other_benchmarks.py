"""Measures in the conventions of other benchmarks: hand-made tables, and what the MSU benchmark publishes."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from iqarena.bench.metrics.other_benchmarks import guardians, msu

SUBSETS = [
    f"{attack}/{dataset}"
    for attack, nips in (("std-fgsm", "NIPS"), ("ifgsm", "NIPS"), ("madc", "NIPS2017"))
    for dataset in ("DERF", nips, "VIMEO")
]


@pytest.mark.parametrize("subset", SUBSETS)
def test_published_scores_give_the_published_aggregates(data_root, subset):
    folder = data_root / "peers"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: the per-image scores that the MSU benchmark publishes")
    published = json.loads((folder / "msu_maniqa_aggregates.json").read_text())["subsets"]
    assert set(published) == set(SUBSETS)
    attack, dataset = subset.split("/")
    scores = pd.read_csv(folder / f"{attack}_maniqa_test.csv")
    scores = scores[scores.test_dataset == dataset]
    assert len(scores) == published[subset].pop("n")
    # the published ones were computed by other code in float64; a millionth is what is asked for, and 1e-12 what is there
    assert msu(scores.clear.to_numpy(), scores.attacked.to_numpy()) == pytest.approx(published[subset], abs=1e-6)


def test_msu_by_hand():
    # scaled by 2 … 6: x = 0, ½, 1 and y = ½, ½, 1¼
    result = msu(np.array([2.0, 4.0, 6.0]), np.array([4.0, 4.0, 7.0]))
    small = 1e-6
    assert result == pytest.approx(
        {
            "abs_gain": (0.5 + 0 + 0.25) / 3,
            "rel_gain": (0.5 / 1 + 0 + 0.25 / 2) / 3,
            "r_score": (-math.log10(0.5 + small) + math.log10(0.5 / small) - math.log10(0.25 + small)) / 3,
            "wasserstein": (0.5 + 0 + 0.25) / 3,
            # F − F′ is ⅓ on 0 … ½ and on 1 … 1¼
            "energy": math.sqrt(2 * (0.5 + 0.25) / 9),
        }
    )
    down = msu(np.array([2.0, 4.0, 6.0]), np.array([1.0, 4.0, 4.0]))
    assert down["abs_gain"] == down["wasserstein"] == pytest.approx(-0.25)
    assert down["energy"] < 0


def test_msu_of_equal_clear_scores_is_finite():
    assert all(math.isfinite(value) for value in msu(np.full(3, 2.0), np.array([2.5, 2.0, 2.0])).values())


def test_guardians_by_hand():
    result = guardians(
        np.array([20.0, 50.0]), np.array([60.0, 40.0]), np.array([25.0, 50.0]), np.array([30.0, 45.0]), (0.0, 100.0)
    )
    assert result == pytest.approx(
        {
            "nonpurified_abs_gain": 0.25,
            "nonpurified_rel_gain": (40 / 20 + 10 / 50) / 2,
            "robust_abs_gain": 0.075,
            "robust_rel_gain": (10 / 20 + 5 / 50) / 2,
            "both_defended_abs_gain": 0.05,
            "both_defended_rel_gain": (5 / 25 + 5 / 50) / 2,
        },
        rel=1e-6,
    )
