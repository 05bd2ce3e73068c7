"""Runs cells: images through the attack, the check of the threat model and the deployed model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from iqarena.bench.cells import Cell, digest
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.image_store import CleanImages
from iqarena.bench.errors import describe
from iqarena.bench.evaluation.attacked_sets import AttackedSets
from iqarena.bench.evaluation.cell_id import CellIds
from iqarena.bench.evaluation.record import CellOutcome, record_of
from iqarena.bench.evaluation.scorer import Scorer
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.identity import Answers, same
from iqarena.bench.inference.isolation import OutOfMemory, out_of_memory, undisturbed
from iqarena.bench.inference.model_checks import probed
from iqarena.bench.inference.model_pool import ModelPool
from iqarena.bench.process import asks_to_stop
from iqarena.bench.results.columns import IMAGE_COLUMNS
from iqarena.bench.results.provenance import measure_costs
from iqarena.bench.suite import Batch
from iqarena.models.base import QualityModel


class Evaluator:
    """Runs cells of one image set, which share images, models, clean scores and attacked images.

    Args:
        dataset: source of the images.
        limit: maximum number of images, chosen evenly over the references.
        batch: batch size, or "auto".
        extra_models: models that are not in the registry, by name; they are copied before use.
        engine: device and settings of forward and backward passes.
        memory: memory limit of this process in bytes, if there is one.

    Attributes:
        samples, images: the image set.
        content_sha256: hash of its ids, references, labels and pixels.
        pool: the models.
        ids: computes the ids of cells.
        scorer: scores images with deployed models.
        attacked: the attacked image sets.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        limit: int | None,
        batch: Batch,
        extra_models: dict[str, QualityModel] | None = None,
        *,
        engine: Engine | None = None,
        memory: int | None = None,
    ) -> None:
        self.dataset, self.batch = dataset, batch
        indices = dataset.spread(limit)
        self.samples = [dataset.samples[i] for i in indices]
        self.images = CleanImages(dataset, indices)
        self.extra_models = {} if extra_models is None else extra_models
        self.pool = ModelPool(self.extra_models, engine or Engine(), batch, self.images[0], memory)
        self.ids = CellIds(self.pool, self.images, [sample.image_id for sample in self.samples], dataset.fingerprint)
        self.scorer = Scorer(self.pool, self.samples, self.images)
        self.attacked = AttackedSets(dataset, self.samples, self.images, self.pool, self.ids, self.scorer)
        described = [(sample.image_id, sample.reference_id, sample.mos) for sample in self.samples]
        self.content_sha256 = digest(described, self.images.hashes)

    def run(self, cell: Cell, cell_id: str, halvings: int = 0) -> tuple[dict[str, Any], pd.DataFrame]:
        """Run a cell; errors of plugins are recorded as statuses.

        Args:
            cell, cell_id: the cell and its id.
            halvings: how often the batch size is halved, after the cell ran out of memory before.

        Returns:
            The record, and a table with one row per image.

        Raises:
            OutOfMemory: if a smaller batch may help.
        """
        self.scorer.halvings = halvings
        self.attacked.start_cell()
        outcome = self._empty(cell)
        with undisturbed() as disturbed, measure_costs() as outcome.spent:
            self._run(cell, outcome)
        for reason in disturbed:
            outcome.fail(reason)
        if self.images.drop_changed():
            outcome.fail("clean images were changed in memory meanwhile; they are decoded anew")
            self.attacked.clear()
            self.scorer.clear()
        if changed := self.pool.changed({cell.model, cell.crafted_on[0]}):
            outcome.fail(f"{' and '.join(changed)} were changed meanwhile; the models were loaded anew")
            self.attacked.clear()
        outcome.seconds = outcome.spent.seconds + self.attacked.seconds_of_others()
        record = record_of(outcome, cell, cell_id, self.pool, self.dataset)
        record["dataset"]["content_sha256"] = self.content_sha256
        record["model"]["probe"] = probed(self.pool.bare(cell.model))
        if answers := self._answers(cell):
            record["answers"] = answers
        return record, outcome.images

    def _answers(self, cell: Cell) -> dict[str, Answers]:
        """Return the answers on the probes of the models of a cell that no registry vouches for."""
        names = dict.fromkeys((cell.model, cell.crafted_on[0]))
        return {name: answers for name in names if (answers := self.pool.answers(name)) is not None}

    def same_models(self, cell: Cell, record: dict[str, Any]) -> bool:
        """Check whether a record is of models that answer as those of this run do."""
        earlier = record.get("answers", {})
        return all(same(answers, earlier.get(name, {})) for name, answers in self._answers(cell).items())

    def _run(self, cell: Cell, outcome: CellOutcome) -> None:
        images, scorer = outcome.images, self.scorer
        try:
            undefended = scorer.clean(cell.model, "none", cell.seed)
            clean = scorer.clean(cell.model, cell.defense, cell.seed)
            outcome.speed = scorer.speed(cell.model, cell.defense)
            outcome.flags += scorer.runtime_flags(cell.model, cell.defense)
            images["undefended_clean_quality"], images["clean_quality"] = undefended.numpy(), clean.numpy()
            outcome.crafted = crafted = self.attacked.crafted(cell)
            for column in crafted.table.columns:
                images[column] = crafted.table[column].to_numpy()
            outcome.flags += crafted.flags
            outcome.errors += crafted.errors
            adversarial = scorer.score(cell.model, cell.defense, crafted.pixels, digest(cell.crafting, "adv"))
            failed = (crafted.table.status == "failed").to_numpy()
            finite = np.isfinite(clean.numpy()) & np.isfinite(adversarial.numpy())
            images["adv_quality"] = np.where(failed, np.nan, adversarial.numpy())
            images["status"] = crafted.table.status.where(finite | failed, "not-finite").to_numpy()
            outcome.certified = scorer.certified(cell)
            outcome.purified = scorer.filter_fidelity(cell, crafted)
        except OutOfMemory:
            raise
        except BaseException as error:
            if asks_to_stop(error):
                raise
            if out_of_memory(error):
                raise OutOfMemory(describe(error)) from None
            outcome.fail(describe(error))

    def failed(self, cell: Cell, cell_id: str, reason: str) -> tuple[dict[str, Any], pd.DataFrame]:
        """Return the record and the rows of a cell that was stopped from outside."""
        outcome = self._empty(cell)
        outcome.fail(reason)
        record = record_of(outcome, cell, cell_id, self.pool, self.dataset)
        record["dataset"]["content_sha256"] = self.content_sha256
        return record, outcome.images

    def _empty(self, cell: Cell) -> CellOutcome:
        """Return the outcome of a cell before it has run: all images are failed."""
        images = pd.DataFrame(
            {
                "image_id": [s.image_id for s in self.samples],
                "reference_id": [s.reference_id for s in self.samples],
                "mos": [s.mos for s in self.samples],
                "status": "failed",
            }
        )
        crafting = self.ids.crafting_id(cell)
        return CellOutcome(images.reindex(columns=IMAGE_COLUMNS), crafting, self.batch, self.scorer.halvings)
