"""Faults of plugins, models and disks in a run: each becomes a status or an error of one line, and the rest goes on."""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import UserError
from iqarena.bench.registry import ATTACKS, DEFENSES, Entry
from iqarena.defenses.base import Defense, Kind
from iqarena.defenses.purification.base import PurifiedModel
from iqarena.models.base import QualityModel
from tests.support.analytic_models import LinearModel, NaNModel, WrongShapeModel
from tests.support.suite_runs import run_all, summary


@dataclass(frozen=True)
class Plugin(Attack):
    """Base of the faulty attacks below."""

    access: ClassVar[Access] = "gradient"

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        return self.misbehave(images, threat)

    def misbehave(self, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        raise RuntimeError("plugin\nbroke")


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
    for cls in (Raises, Exits, LeavesBall, ReturnsNaN, WrongShape):
        monkeypatch.setitem(ATTACKS.entries, cls.name, Entry(cls.name, cls))


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("attack", "status", "message"),
    [
        ("raises", "failed", "RuntimeError: plugin broke"),
        ("exits", "failed", "SystemExit"),
        ("leaves-ball", "violation", "outside linf ≤ 0.0078431, and were projected"),
        ("returns-nan", "not-finite", "came back with NaN"),
        ("wrong-shape", "failed", "returned (8, 3, 15, 16)"),
    ],
)
def test_a_bad_plugin_is_a_status_and_the_others_go_on(
    small: ImageDataset, tmp_path: Path, attack: str, status: str, message: str
) -> None:
    outcome = run_all(small, LinearModel(), tmp_path, attacks=[attack, "pgd"], settings=["adaptive"])
    assert outcome.done == 2
    ((cell, status_of_cell, error),) = outcome.failed
    assert (cell.attack, status_of_cell) == (attack, status)
    assert message in error
    assert "\n" not in error
    table = summary(tmp_path).set_index("attack")
    assert table.status.to_dict() == {attack: status, "pgd": "ok"}
    if attack == "leaves-ball":  # projected, and flagged
        assert table.linf_max[attack] <= 2 / 255
        assert table["flags"][attack] == "left-ball"
    # a failure never counts as done
    again = run_all(small, LinearModel(), tmp_path, attacks=[attack, "pgd"], settings=["adaptive"])
    assert (again.done, again.kept) == (1, 1)


@pytest.mark.parametrize(("model", "status"), [(NaNModel(), "not-finite"), (WrongShapeModel(), "failed")])
def test_a_bad_model_is_a_status(small: ImageDataset, tmp_path: Path, model: QualityModel, status: str) -> None:
    outcome = run_all(small, model, tmp_path, attacks=["random-noise"], settings=["adaptive"])
    assert [status_of_cell for _, status_of_cell, _ in outcome.failed] == [status]
    assert math.isnan(summary(tmp_path).srocc_adv[0])


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
    real = records.write_synced

    def full(path: Path, content: bytes) -> None:
        if len(written) >= 2 and path.name == "images.csv":
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, content)

    monkeypatch.setattr(records, "write_synced", full)
    attacks = ["random-noise", "pgd", "fgsm"]
    with pytest.raises(UserError, match=r"No space left on device.*run the same command again"):
        run_all(small, LinearModel(), tmp_path, attacks=attacks, settings=["adaptive"])
    assert len(summary(tmp_path)) == 1
    assert not list((tmp_path / "cells").glob(".*"))
    monkeypatch.setattr(records, "write_synced", real)
    assert run_all(small, LinearModel(), tmp_path, attacks=attacks, settings=["adaptive"]).kept == 1
    assert len(summary(tmp_path)) == 3


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
    """A defense that scores the first batches and raises from then on, as with a memory leak."""

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
    for cls in (Shaky, Breaks, OnlySometimes):
        monkeypatch.setitem(DEFENSES.entries, cls.name, Entry(cls.name, cls))


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


@pytest.mark.usefixtures("defenses")
def test_a_stochastic_defense_is_averaged_seeded_and_repeatable(small: ImageDataset, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        run_all(small, LinearModel(), tmp_path / folder, attacks=["pgd[steps=2]"], defenses=["shaky"], draws=4)
    a, b = (summary(tmp_path / folder).drop(columns="seconds") for folder in ("a", "b"))
    pd.testing.assert_frame_equal(a, b)
    adaptive = a[a.setting == "adaptive"]
    assert adaptive.forwards_mean.tolist() == [4 * 4]
    assert a[a.setting == "oblivious"].forwards_mean.tolist() == [4]
