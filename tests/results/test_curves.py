"""Frames of curves and of transfer, from records of a small evaluator and by hand."""

from __future__ import annotations

import itertools
import math

import pandas as pd
import pytest
from scipy.integrate import trapezoid

from iqarena.bench.cells import expand
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.results.curves import (
    effort_curves,
    integral_robustness,
    integrals,
    size_curves,
    transfer_matrix,
    transfers,
)
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from tests.support.planted import Linear, planted_images

SIZES = [2 / 255, 4 / 255, 8 / 255]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Two linear models, one also behind a defense, three sizes, and attacks from one on the other."""
    root = tmp_path_factory.mktemp("curves")
    results = Records(root / "out")
    evaluator = Evaluator(planted_images(root / "images"), None, 24, {"one": Linear("one"), "two": Linear("two", seed=1)})
    suite = {"dataset": "folder", "models": ["one", "two"], "attacks": ["random-noise", "pgd[steps=6]", "fgsm"],
             "threats": [{"eps": eps} for eps in SIZES], "settings": ["oblivious", "transfer"],
             "defenses": ["none", "flip"]}  # fmt: skip
    outcome = local.run(evaluator, expand(validated(suite)), results, report=lambda *_: None)
    assert not outcome.failed
    return results


def test_size_curves_begin_where_nothing_is_attacked_and_fall(records: Records) -> None:
    frame = size_curves(records)
    assert len(frame) == 4 * (1 + len(SIZES))
    for _, line in frame.groupby(["model", "defense"]):
        assert line.eps.tolist() == [0, *SIZES]
        assert (line["shift"].diff().dropna() > 0).all()
        assert (line.srocc.diff().dropna() <= 0).all()
        assert line["shift"].iloc[0] == 0
        assert (line.srocc_lo <= line.srocc).all()
        assert line.complete.all()


def test_size_curves_are_the_worst_of_the_summary(records: Records) -> None:
    summary = pd.read_csv(records.folder / "summary.csv", float_precision="round_trip")
    attacks = summary[summary.attack != "random-noise"]
    frame = size_curves(records)
    for (model, defense, eps), cells in attacks.groupby(["model", "defense", "eps"]):
        row = frame[(frame.model == model) & (frame.defense == defense) & (frame.eps == eps)].iloc[0]
        assert row.srocc == pytest.approx(cells.srocc_adv.min())
        assert row["shift"] == pytest.approx(cells.abs_gain.max())


def test_integral_by_hand() -> None:
    # trapezoids: 1 · (0 + 2)/2 + 3 · (2 + 4)/2 = 10, over the largest size 4
    assert integral_robustness([0, 1, 4], [0, 2, 4]) == pytest.approx(2.5)
    assert integral_robustness([0, 1, 4], [0.7, 0.7, 0.7]) == pytest.approx(0.7)
    for sizes, values in (([0], [1]), ([1, 2], [1, 1]), ([0, 0], [1, 1]), ([0, 1], [1, math.nan])):
        assert math.isnan(integral_robustness(sizes, values))


def test_integrals_are_of_rows_that_have_every_size(records: Records) -> None:
    curves = size_curves(records)
    result = integrals(curves).set_index(["model", "defense"])
    line = curves[(curves.model == "one") & (curves.defense == "none")]
    assert result.loc[("one", "none"), "shift_integral"] == pytest.approx(trapezoid(line["shift"], line.eps) / SIZES[-1])
    assert (result.sizes == 3).all()
    lacking = curves.drop(line.index[1])
    assert math.isnan(integrals(lacking).set_index(["model", "defense"]).loc[("one", "none"), "srocc_integral"])
    incomplete = curves.assign(complete=curves.index != line.index[2])
    assert math.isnan(integrals(incomplete).set_index(["model", "defense"]).loc[("one", "none"), "shift_integral"])
    assert math.isfinite(integrals(lacking).set_index(["model", "defense"]).loc[("two", "none"), "srocc_integral"])


def test_effort_curves_have_a_row_a_checkpoint_and_never_fall_back(records: Records) -> None:
    frame = effort_curves(records)
    assert set(frame.attack) == {"pgd[steps=6]", "fgsm"}, "controls ask nothing"
    for (_, attack), line in frame.groupby(["cell_id", "attack"]):
        assert line.forwards.tolist() == ([1, 2, 5, 8] if attack == "pgd[steps=6]" else [1, 2, 3])
        assert (line.abs_gain.diff().dropna() >= 0).all()
        assert line.abs_gain.iloc[0] == 0
    assert frame.srocc.notna().all()


def test_old_records_without_curves_give_an_empty_frame(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [{name: value for name, value in record.items() if name != "curve"} for record in records.all()]
    monkeypatch.setattr(Records, "all", lambda self: iter(every))
    assert effort_curves(records).empty


def test_transfers_hold_every_pair_and_each_models_own(records: Records) -> None:
    frame = transfers(records)
    assert set(frame.attack) == {"pgd[steps=6]", "fgsm"}
    one_size = frame[frame.eps == SIZES[1]]
    pairs = set(zip(one_size.source, one_size.model, one_size.defense, strict=True))
    assert pairs == set(itertools.product(["one", "two"], ["one", "two"], ["none", "flip"]))
    assert len(one_size) == len(pairs) * 2


def test_the_transfer_matrix_is_worst_on_its_diagonal_and_over_attacks(records: Records) -> None:
    frame = transfers(records)
    frame = frame[frame.eps == SIZES[2]]
    matrix = transfer_matrix(frame)
    assert matrix.index.tolist() == ["one", "two"]
    assert matrix.columns.tolist() == ["one", "one + flip", "two", "two + flip"]
    for own, other in (("one", "two"), ("two", "one")):
        cells = frame[(frame.source == own) & (frame.model == other) & (frame.defense == "none")]
        assert matrix.loc[own, other] == cells.abs_gain.max()
        assert matrix.loc[own, own] > matrix.loc[own, other]
    own = frame[(frame.source == "one") & (frame.model == "one") & (frame.defense == "none")]
    assert transfer_matrix(frame, "stability_srocc").loc["one", "one"] == own.stability_srocc.min()


def test_an_attack_that_a_source_lacks_counts_for_none() -> None:
    rows = [("a", "x", 0.5), ("b", "x", 0.1), ("a", "y", 0.9)]
    frame = pd.DataFrame(rows, columns=["source", "attack", "abs_gain"]).assign(model="a", defense="none", objective="away")
    assert transfer_matrix(frame).loc["a", "a"] == 0.5
    assert transfer_matrix(frame).loc["b", "a"] == 0.1
