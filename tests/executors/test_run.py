"""A suite from file to table: cells, resume, faults in plugins and disks, bad images, and the Python door."""

from __future__ import annotations

import json
import math
import os
import stat
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
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.cell_id import attacked_model
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.registry import ATTACKS, DEFENSES, Entry
from iqarena.bench.results.store import IMAGE_COLUMNS, SUMMARY_COLUMNS, Records
from iqarena.bench.suite import validated
from iqarena.defenses.base import Defense, Kind
from iqarena.defenses.purification.base import PurifiedModel
from iqarena.models.base import QualityModel
from tests.support.analytic_models import LinearModel, NaNModel, StochasticModel, WrongShapeModel


@dataclass(frozen=True)
class Plugin(Attack):
    """Base of the badly behaved attacks below."""

    access: ClassVar[Access] = "gradient"

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        return self.misbehave(images, threat)

    def misbehave(self, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        raise RuntimeError("plugin\nbroke")


class Noise(Plugin):
    name: ClassVar[str] = "noise"

    def misbehave(self, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        return images


class Raises(Plugin):
    name: ClassVar[str] = "raises"


class Exits(Plugin):
    name: ClassVar[str] = "exits"

    def misbehave(self, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        raise SystemExit(0)


class LeavesBall(Plugin):
    name: ClassVar[str] = "leaves-ball"

    def misbehave(self, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        return images + 3 * threat.size


class ReturnsNaN(Plugin):
    name: ClassVar[str] = "returns-nan"

    def misbehave(self, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        return images * math.nan


class WrongShape(Plugin):
    name: ClassVar[str] = "wrong-shape"

    def misbehave(self, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        return images[:, :, 1:]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (Raises, Exits, LeavesBall, ReturnsNaN, WrongShape):
        monkeypatch.setitem(ATTACKS.entries, made.name, Entry(made.name, made))


def run_all(dataset: ImageDataset, model: QualityModel, out: Path, batch: int = 16, **suite: Any) -> local.Outcome:
    """A suite on one model object."""
    chosen = validated({"models": [model.info.name], "dataset": dataset.name, **suite})
    evaluator = Evaluator(dataset, chosen.limit, batch, {model.info.name: model})
    return local.run(evaluator, expand(chosen), Records(out), lambda *_: None)


def summary(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "summary.csv")


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
    # the linear model is fooled: each quality moves by Σ|w|·ε = 10 · 2/255, but for clipping at black and white
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
    """Seeds are of the cell and the image: one at a time, in another order, beside other cells, all the same."""
    attacks = ["random-noise", "pgd", "square[queries=20]", "torchattacks:PGD"]
    run_all(small, LinearModel(), tmp_path / "a", attacks=attacks, batch=8)
    run_all(small, LinearModel(), tmp_path / "b", attacks=attacks[::-1], batch=1)
    a, b = summary(tmp_path / "a"), summary(tmp_path / "b")
    assert len(a) == 8
    both = a.merge(b, on="cell_id", suffixes=("_a", "_b"))
    assert len(both) == 8
    # scores may differ in the last bits of float32 with the batch; an image of another seed would differ by far more
    np.testing.assert_allclose(both.abs_gain_a, both.abs_gain_b, atol=1e-6)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("attack", "status", "told"),
    [
        ("raises", "failed", "RuntimeError: plugin broke"),
        ("exits", "failed", "SystemExit"),
        ("leaves-ball", "violation", "outside linf ≤ 0.0078431, and were projected"),
        ("returns-nan", "not-finite", "came back with NaN"),
        ("wrong-shape", "failed", "returned (8, 3, 15, 16)"),
    ],
)
def test_a_bad_plugin_is_a_status_and_the_others_go_on(
    small: ImageDataset, tmp_path: Path, attack: str, status: str, told: str
) -> None:
    outcome = run_all(small, LinearModel(), tmp_path, attacks=[attack, "pgd"], settings=["adaptive"])
    assert outcome.done == 2
    ((cell, found, error),) = outcome.failed
    assert (cell.attack, found) == (attack, status)
    assert told in error
    assert "\n" not in error
    table = summary(tmp_path).set_index("attack")
    assert table.status.to_dict() == {attack: status, "pgd": "ok"}
    if attack == "leaves-ball":  # projected all the same, and said so
        assert table.linf_max[attack] <= 2 / 255
        assert table["flags"][attack] == "left-ball"
    # a failure is never taken for done
    again = run_all(small, LinearModel(), tmp_path, attacks=[attack, "pgd"], settings=["adaptive"])
    assert (again.done, again.kept) == (1, 1)


@pytest.mark.parametrize(("model", "status"), [(NaNModel(), "not-finite"), (WrongShapeModel(), "failed")])
def test_a_bad_model_is_a_status(small: ImageDataset, tmp_path: Path, model: QualityModel, status: str) -> None:
    outcome = run_all(small, model, tmp_path, attacks=["random-noise"], settings=["adaptive"])
    assert [found for _, found, _ in outcome.failed] == [status]
    assert math.isnan(summary(tmp_path).srocc_adv[0])


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
    assert [why for _, why in outcome.skipped] == [reason] * 2
    assert (outcome.done, outcome.failed) == (0, [])


def test_an_image_below_a_models_least_size_is_skipped_with_the_reason(small: ImageDataset) -> None:
    chosen = validated({"models": ["cnniqa"], "attacks": ["pgd"], "dataset": small.name, "settings": ["adaptive"]})
    with pytest.raises(CannotRun, match=r"is 16×16; cnniqa needs 32×32"):
        Evaluator(small, 1, 16).cell_id(expand(chosen)[0])


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


def test_a_read_only_folder_is_one_line(tmp_path: Path, small: ImageDataset) -> None:
    if os.geteuid() == 0:
        (tmp_path / "file").write_text("")
        locked = tmp_path / "file" / "below"  # root may write anywhere but below a file
    else:
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        locked = tmp_path / "out"
    with pytest.raises(UserError, match=r"cannot be written to .* choose another --out"):
        run_all(small, LinearModel(), locked, attacks=["random-noise"])


def test_a_full_disk_loses_nothing_that_is_finished(
    small: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iqarena.bench.results import store as records

    written: list[Path] = []
    real = records._write_synced

    def full(path: Path, content: bytes) -> None:
        if len(written) >= 2 and path.name == "images.csv":
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, content)

    monkeypatch.setattr(records, "_write_synced", full)
    attacks = ["random-noise", "pgd", "fgsm"]
    with pytest.raises(UserError, match=r"No space left on device.*run the same command again"):
        run_all(small, LinearModel(), tmp_path, attacks=attacks, settings=["adaptive"])
    assert len(summary(tmp_path)) == 1
    assert not list((tmp_path / "cells").glob(".*"))
    monkeypatch.setattr(records, "_write_synced", real)
    assert run_all(small, LinearModel(), tmp_path, attacks=attacks, settings=["adaptive"]).kept == 1
    assert len(summary(tmp_path)) == 3


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
    made, cells = evaluator()
    own, whole = {}, {}
    for cell in cells:
        record, _ = made.run(cell, made.cell_id(cell))
        own[cell] = record["provenance"]["seconds"]
        whole[cell] = record["costs"]["seconds"]
    noise, noise_again, fgsm, _, both, both_again = cells
    took = {cell: made.crafted(cell).seconds for cell in cells}
    assert whole[noise] == own[noise]
    assert whole[noise_again] == pytest.approx(own[noise_again] + took[noise])
    assert whole[both] == pytest.approx(own[both] + took[noise] + took[fgsm])
    assert whole[both_again] == pytest.approx(own[both_again] + took[both])
    alone, _ = evaluator()
    record, _ = alone.run(both, alone.cell_id(both))
    assert record["costs"]["seconds"] == record["provenance"]["seconds"], "its members are its own then"


def test_records_say_how_they_were_made(small: ImageDataset, tmp_path: Path) -> None:
    run_all(small, LinearModel(), tmp_path, attacks=["pgd"], settings=["adaptive"])
    (file,) = tmp_path.glob("cells/*/record.json")
    record = json.loads(file.read_text())
    assert record["cell"]["attack"] == "pgd"
    assert record["attack"]["parameters"]["steps"] == 10
    assert record["provenance"]["versions"]["torch"] == version("torch")
    assert record["dataset"]["label_kind"] == "MOS"


class Shaky(Defense):
    """A defense that says it is stochastic, on a model that is not."""

    name: ClassVar[str] = "shaky"
    kind: ClassVar[Kind] = "purification"
    stochastic: ClassVar[bool] = True

    def protect(self, model: QualityModel) -> QualityModel:
        return PurifiedModel(model, lambda images: images + 0.05 * torch.randn(images.shape))


class Breaks(Shaky):
    name: ClassVar[str] = "breaks"
    stochastic: ClassVar[bool] = False

    def protect(self, model: QualityModel) -> QualityModel:
        raise RuntimeError("no\nway")


class OnlySometimes(Shaky):
    """Scores the first batch and raises ever after, as a leak would."""

    name: ClassVar[str] = "only-sometimes"
    stochastic: ClassVar[bool] = False

    def protect(self, model: QualityModel) -> QualityModel:
        calls = []

        def purify(images: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            if len(calls) > 7:  # one call for the clean scores and six for timing; then come the attacked images
                raise MemoryError("enough")
            return images

        return PurifiedModel(model, purify)


@pytest.fixture
def defenses(monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (Shaky, Breaks, OnlySometimes):
        monkeypatch.setitem(DEFENSES.entries, made.name, Entry(made.name, made))


@pytest.mark.usefixtures("defenses")
def test_a_stochastic_defense_is_averaged_seeded_and_repeatable(small: ImageDataset, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        run_all(small, LinearModel(), tmp_path / folder, attacks=["pgd[steps=2]"], defenses=["shaky"], draws=4)
    a, b = (summary(tmp_path / folder).drop(columns="seconds") for folder in ("a", "b"))
    pd.testing.assert_frame_equal(a, b)
    adaptive = a[a.setting == "adaptive"]
    assert adaptive.forwards_mean.tolist() == [4 * 4]
    assert a[a.setting == "oblivious"].forwards_mean.tolist() == [4]


@pytest.mark.usefixtures("defenses")
def test_a_defense_that_breaks_is_one_line(small: ImageDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^defense 'breaks' on 'linear': RuntimeError: no way$"):
        run_all(small, LinearModel(), tmp_path, attacks=["pgd"], defenses=["breaks"])


@pytest.mark.usefixtures("defenses")
def test_a_defense_that_fails_on_attacked_images_is_not_ok(small: ImageDataset, tmp_path: Path) -> None:
    suite = {"attacks": ["random-noise"], "defenses": ["only-sometimes"], "settings": ["oblivious"]}
    outcome = run_all(small, LinearModel(), tmp_path, batch=8, **suite)
    assert [(status, error) for _, status, error in outcome.failed] == [("failed", "MemoryError: enough")]
    assert set(summary(tmp_path).status) == {"failed"}


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
