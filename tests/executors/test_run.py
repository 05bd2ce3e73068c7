"""A run of a suite: its table and records, the reuse of finished cells, and the cells that are skipped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from iqarena import evaluate
from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.fgsm import FGSM
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.bench.cells import Cell, expand
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import CannotRun
from iqarena.bench.evaluation.cell_id import attacked_model
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.registry import ATTACKS, Entry
from iqarena.bench.results.columns import IMAGE_COLUMNS, SUMMARY_COLUMNS
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from iqarena.models.base import QualityModel
from tests.support.analytic_models import LinearModel, StochasticModel
from tests.support.suite_runs import run_all, summary


@dataclass(frozen=True)
class Noise(Attack):
    """An attack that returns the clean images."""

    name: ClassVar[str] = "noise"
    access: ClassVar[Access] = "gradient"

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        return images


def test_a_run_leaves_every_column_and_keeps_to_the_threat_model(small: ImageDataset, tmp_path: Path) -> None:
    outcome = run_all(small, LinearModel(), tmp_path / "out", attacks=["random-noise", "pgd", "score-reflection"])
    assert outcome.done == 6  # three attacks in two settings
    assert not outcome.failed
    table = summary(tmp_path / "out")
    assert list(table.columns) == SUMMARY_COLUMNS
    assert (table.status == "ok").all()
    assert table.linf_max.max() <= 2 / 255
    assert pd.api.types.is_float_dtype(table.eps)
    for cell_id in table.cell_id:
        assert list(Records(tmp_path / "out").images(cell_id).columns) == IMAGE_COLUMNS
    # the attack moves each quality of the linear model by Σ|w|·ε = 10 · 2/255, except for clipping at black and white
    away = table[table.attack == "pgd"]
    assert away.abs_gain.to_numpy() == pytest.approx(10 * 2 / 255, rel=0.05)


def test_a_second_run_computes_nothing_and_leaves_the_same_bytes(small: ImageDataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_all(small, LinearModel(), out, attacks=["pgd"])
    before = (out / "summary.csv").read_bytes()
    again = run_all(small, LinearModel(), out, attacks=["pgd"])
    assert (again.done, again.kept) == (0, 2)
    assert (out / "summary.csv").read_bytes() == before


def test_another_parameter_or_other_weights_are_other_cells(small: ImageDataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_all(small, LinearModel(), out, attacks=["pgd"])
    more = run_all(small, LinearModel(), out, attacks=["pgd", "pgd[steps=3]"])
    assert (more.done, more.kept) == (2, 2)
    evaluate(LinearModel(seed=1), ["pgd"], small, out=out, limit=None)
    assert len(summary(out)) == 5


def test_a_damaged_record_is_made_again(small: ImageDataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_all(small, LinearModel(), out, attacks=["pgd"], settings=["adaptive"])
    whole = (out / "summary.csv").read_text()
    (images,) = out.glob("cells/*/images.csv")
    images.write_text(images.read_text().replace("ok", "no", 1))
    again = run_all(small, LinearModel(), out, attacks=["pgd"], settings=["adaptive"])
    assert (again.done, again.kept) == (1, 0)

    def without_seconds(text: str) -> list[list[str]]:
        column = SUMMARY_COLUMNS.index("seconds")
        return [line.split(",")[:column] + line.split(",")[column + 1 :] for line in text.splitlines()]

    assert without_seconds((out / "summary.csv").read_text()) == without_seconds(whole)


def test_order_batch_and_company_change_no_image(small: ImageDataset, tmp_path: Path) -> None:
    """Seeds depend on the cell and the image only: not on batch, order or the other cells."""
    attacks = ["random-noise", "pgd", "square[queries=20]", "torchattacks:PGD"]
    run_all(small, LinearModel(), tmp_path / "a", attacks=attacks, batch=8)
    run_all(small, LinearModel(), tmp_path / "b", attacks=attacks[::-1], batch=1)
    a, b = summary(tmp_path / "a"), summary(tmp_path / "b")
    assert len(a) == 8
    both = a.merge(b, on="cell_id", suffixes=("_a", "_b"))
    assert len(both) == 8
    # scores may differ in the last bits of float32 with the batch; an image of another seed would differ by far more
    np.testing.assert_allclose(both.abs_gain_a, both.abs_gain_b, atol=1e-6)


def test_a_cell_that_makes_no_sense_is_skipped_with_the_reason(small: ImageDataset, tmp_path: Path) -> None:
    threats = [{"norm": "l2", "eps": 0.5}]
    outcome = run_all(small, LinearModel(), tmp_path, attacks=["parsimonious"], threats=threats, settings=["adaptive"])
    assert [reason for _, reason in outcome.skipped] == ["parsimonious does not support l2; it supports linf"]


@pytest.mark.parametrize(
    ("model", "queries", "reason"),
    [
        (LinearModel(), 0, "a query limit of 0 allows no attack"),
        (StochasticModel(), 2, "a query limit of 2 is below the 3 draws of an answer"),
    ],
)
def test_a_query_limit_that_allows_no_question_is_a_skipped_cell(
    small: ImageDataset, tmp_path: Path, model: QualityModel, queries: int, reason: str
) -> None:
    threats = [{"eps": "2/255", "queries": queries}]
    outcome = run_all(small, model, tmp_path, attacks=["square", "pgd"], threats=threats, settings=["adaptive"], draws=3)
    assert [given for _, given in outcome.skipped] == [reason] * 2
    assert (outcome.done, outcome.failed) == (0, [])


def test_an_image_below_a_models_least_size_is_skipped_with_the_reason(small: ImageDataset) -> None:
    chosen = validated({"models": ["cnniqa"], "attacks": ["pgd"], "dataset": small.name, "settings": ["adaptive"]})
    with pytest.raises(CannotRun, match=r"is 16×16; cnniqa needs 32×32"):
        Evaluator(small, 1, 16).ids.cell_id(expand(chosen)[0])


def test_a_stochastic_model_is_scored_anew_and_repeatably(small: ImageDataset, tmp_path: Path) -> None:
    attacks = ["random-noise", "pgd[steps=2]"]
    for folder in ("a", "b"):
        run_all(small, StochasticModel(), tmp_path / folder, attacks=attacks, settings=["adaptive"], draws=3)
    a, b = (summary(tmp_path / folder).set_index("attack") for folder in ("a", "b"))
    pd.testing.assert_frame_equal(a.drop(columns="seconds"), b.drop(columns="seconds"))
    # the gradient is averaged over three draws, and each is counted: q₀, two steps and the last look, times three
    assert a.forwards_mean["pgd[steps=2]"] == 12
    assert a.backwards_mean["pgd[steps=2]"] == 6
    # clean and attacked get other draws: with the same ones, noise of 2/255 could not move a mean by this much
    assert a.abs_gain["random-noise"] > 2 / 255 / 2


class Both(Ensemble):
    name: ClassVar[str] = "both"
    members: ClassVar[Any] = ((Noise(), "away"), (FGSM(), "away"))

    def badness(self, objective: Objective, quality: torch.Tensor) -> torch.Tensor:
        return -objective.loss(quality)


def test_seconds_of_a_cell_have_what_its_images_took_in_other_cells(
    small: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS.entries, "both", Entry("both", Both))

    def evaluator() -> tuple[Evaluator, list[Cell]]:
        attacks = [{"attack": name, "objectives": ["away"]} for name in ("noise", "fgsm", "both")]
        chosen = validated({"models": ["linear"], "attacks": attacks, "dataset": small.name})
        return Evaluator(small, None, 16, {"linear": LinearModel()}), expand(chosen)

    monkeypatch.setitem(ATTACKS.entries, "noise", Entry("noise", Noise))
    shared, cells = evaluator()
    own, whole = {}, {}
    for cell in cells:
        record, _ = shared.run(cell, shared.ids.cell_id(cell))
        own[cell] = record["provenance"]["seconds"]
        whole[cell] = record["costs"]["seconds"]
    noise, noise_again, fgsm, _, both, both_again = cells
    took = {cell: shared.attacked.crafted(cell).seconds for cell in cells}
    assert whole[noise] == own[noise]
    assert whole[noise_again] == pytest.approx(own[noise_again] + took[noise])
    assert whole[both] == pytest.approx(own[both] + took[noise] + took[fgsm])
    assert whole[both_again] == pytest.approx(own[both_again] + took[both])
    alone, _ = evaluator()
    record, _ = alone.run(both, alone.ids.cell_id(both))
    assert record["costs"]["seconds"] == record["provenance"]["seconds"], "its members are its own then"


def test_records_say_how_they_were_made(small: ImageDataset, tmp_path: Path) -> None:
    run_all(small, LinearModel(), tmp_path, attacks=["pgd"], settings=["adaptive"])
    (file,) = tmp_path.glob("cells/*/record.json")
    record = json.loads(file.read_text())
    assert record["cell"]["attack"] == "pgd"
    assert record["attack"]["parameters"]["steps"] == 10
    assert record["provenance"]["versions"]["torch"] == version("torch")
    assert record["dataset"]["label_kind"] == "MOS"


def test_a_score_only_attack_asks_the_deployed_model_and_a_gradient_attack_its_stand_in(small: ImageDataset) -> None:
    chosen = {"models": ["linear"], "defenses": ["jpeg"], "dataset": small.name, "settings": ["adaptive"]}
    square, pgd = expand(validated(chosen | {"attacks": ["square", "pgd"]}))
    assert attacked_model(square) == ("linear", "jpeg", False)
    assert attacked_model(pgd) == ("linear", "jpeg", True)


def test_a_bridge_is_skipped_under_a_query_limit(small: ImageDataset, tmp_path: Path) -> None:
    threats = [{"eps": "2/255", "queries": 5}]
    attacks = ["torchattacks:PGD", "pgd", "square"]
    outcome = run_all(small, LinearModel(), tmp_path, attacks=attacks, threats=threats, settings=["adaptive"])
    assert [reason for _, reason in outcome.skipped] == ["torchattacks:PGD cannot keep to a query limit"]
    assert not outcome.failed
    assert summary(tmp_path).forwards_mean.max() <= 5
