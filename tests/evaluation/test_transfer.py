"""Transfer cells: images crafted on the source model, the deployed model's scores, rows complete without self-transfer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iqarena.bench.cells import expand
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.attacked_sets import AttackedSets
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.results.ranking import tracks
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from iqarena.models.base import ModelInfo
from tests.support.analytic_models import LinearModel, MeanModel

SIDE = 16
MODELS = ["one", "other"]


def linear(seed: int, name: str) -> LinearModel:
    model = LinearModel(SIDE, SIDE, seed=seed)
    model.info = ModelInfo(name, min_size=1)
    return model


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    """Eight random images of four references, and two linear models of other weights."""
    root = tmp_path / "images"
    root.mkdir()
    stream = np.random.default_rng(3)
    rows = []
    for number in range(8):
        Image.fromarray(stream.integers(60, 200, (SIDE, SIDE, 3), dtype=np.uint8)).save(root / f"{number}.png")
        rows.append((f"{number}.png", f"ref{number % 4}", float(stream.random())))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos"]).to_csv(root / "labels.csv", index=False)
    return Evaluator(Folder(root), None, 4, {"one": linear(0, "one"), "other": linear(1, "other")})


def run(evaluator: Evaluator, out: Path, **suite: object) -> tuple[local.Outcome, Records]:
    chosen = {"dataset": "folder", "models": MODELS, "attacks": ["fgsm"], "settings": ["oblivious", "transfer"], **suite}
    records = Records(out)
    return local.run(evaluator, expand(validated(chosen)), records, report=lambda *_: None), records


def test_images_are_those_crafted_on_the_source_and_scores_the_deployed_models(evaluator: Evaluator, tmp_path: Path) -> None:
    outcome, records = run(evaluator, tmp_path / "out")
    assert (outcome.done, outcome.failed, outcome.skipped) == (4, [], [])
    table = pd.read_csv(tmp_path / "out" / "summary.csv", keep_default_na=False)
    assert list(table.columns).index("source") > list(table.columns).index("flags")
    rows = {(row.model, row.setting): row for row in table.itertuples()}
    assert {key: row.source for key, row in rows.items()} == {
        ("one", "oblivious"): "", ("other", "oblivious"): "", ("one", "transfer"): "other", ("other", "transfer"): "one",
    }  # fmt: skip
    for model, source in (MODELS, MODELS[::-1]):
        moved, own = (records.images(rows[key].cell_id) for key in ((model, "transfer"), (source, "oblivious")))
        costs = ["linf", "l2", "forwards", "backwards"]
        pd.testing.assert_frame_equal(moved[costs], own[costs])
        # two random linear models have next to nothing in common: what moves the one by 2/255 · Σ|w| = 0.08 leaves the other
        assert rows[model, "transfer"].abs_gain < 0.3 * rows[model, "oblivious"].abs_gain
        # clean scores are the deployed model's, not the source's
        itself = records.images(rows[model, "oblivious"].cell_id)
        np.testing.assert_array_equal(moved.clean_quality, itself.clean_quality)


def test_no_image_is_crafted_twice(evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crafted = []
    craft = AttackedSets._craft
    monkeypatch.setattr(AttackedSets, "_craft", lambda self, cell: crafted.append(cell.crafting) or craft(self, cell))
    run(evaluator, tmp_path / "out", defenses=["none", "jpeg"])
    assert len(crafted) == len(set(crafted)) == 2


def test_the_source_is_part_of_a_cells_id(evaluator: Evaluator, tmp_path: Path) -> None:
    cell = expand(validated({"dataset": "folder", "models": ["one"], "attacks": ["fgsm"], "transfer_from": ["other"]}))[-1]
    assert cell.source == "other"
    before = evaluator.ids.cell_id(cell)
    evaluator.extra_models["other"].info = ModelInfo("other", min_size=1, weights_sha256="another")
    assert Evaluator(evaluator.dataset, None, 4, evaluator.extra_models).ids.cell_id(cell) != before


def test_a_row_needs_no_transfer_from_its_own_model_to_be_complete(evaluator: Evaluator, tmp_path: Path) -> None:
    _, records = run(evaluator, tmp_path / "out")
    (rows,) = tracks(records).values()
    assert {row.model: (row.complete, row.missing) for row in rows} == {"one": (True, ()), "other": (True, ())}
    (one,) = (row for row in rows if row.model == "one")
    assert {cell.key.setting for cell in one.cells} == {"oblivious", "transfer from other"}


def test_a_source_that_cannot_be_attacked_or_is_unknown_says_so(evaluator: Evaluator, tmp_path: Path) -> None:
    evaluator.extra_models["flat"] = MeanModel()
    evaluator.extra_models["flat"].info = ModelInfo("flat", min_size=1, differentiable=False)
    outcome, _ = run(evaluator, tmp_path / "out", models=["one"], settings=["transfer"], transfer_from=["flat"])
    ((_, reason),) = outcome.skipped
    assert reason == "fgsm needs a gradient, and flat has none"
    evaluator.extra_models["flat"].info = ModelInfo("flat", min_size=99)
    evaluator = Evaluator(evaluator.dataset, None, 4, evaluator.extra_models)
    (cell,) = expand(
        validated({"models": ["one"], "attacks": ["fgsm"], "settings": ["transfer"], "transfer_from": ["flat"]})
    )
    with pytest.raises(CannotRun, match="flat needs 99×99"):
        evaluator.ids.cell_id(cell)
    with pytest.raises(UserError, match="cnnica"):
        run(evaluator, tmp_path / "out", transfer_from=["cnnica"])
