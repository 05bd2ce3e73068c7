"""The attacked image sets of a run: crafted once for all cells that share them, kept while memory allows."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from iqarena.attacks.base import Attack
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.fitted import FittedAttack
from iqarena.attacks.objective import Objective
from iqarena.bench.cells import Cell, digest
from iqarena.bench.datasets.base import ImageDataset, Sample
from iqarena.bench.datasets.image_store import AttackedImages, CleanImages
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.cell_id import CellIds, attacked_model
from iqarena.bench.evaluation.crafting import Crafted, Crafter
from iqarena.bench.evaluation.fit_cache import FitCache
from iqarena.bench.evaluation.record import STATUSES
from iqarena.bench.evaluation.scorer import Scorer
from iqarena.bench.inference.model_pool import ModelPool
from iqarena.bench.registry import ATTACKS

CACHED_BYTES = 2**29
"""Bytes of attacked images that are kept in memory for the cells and ensembles that share them."""


class AttackedSets:
    """Crafts the attacked images of cells, each set once.

    Args:
        dataset: the data set, on whose images fitted attacks are fitted.
        samples, images: the image set that is attacked.
        pool, ids, scorer: models, cell ids and scorer of the run.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        samples: Sequence[Sample],
        images: CleanImages,
        pool: ModelPool,
        ids: CellIds,
        scorer: Scorer,
    ) -> None:
        self._dataset, self._samples, self._images = dataset, samples, images
        self._pool, self._ids, self._scorer = pool, ids, scorer
        self._cache: OrderedDict[str, Crafted] = OrderedDict()
        self._seconds_of_others: dict[str, float] = {}

    @functools.cached_property
    def fits(self) -> FitCache:
        """The fits of fitted attacks.

        Raises:
            CannotRun: if the image set has too few references.
        """
        try:
            return FitCache(self._dataset, [sample.reference_id for sample in self._samples], self._pool.answers)
        except UserError as error:
            raise CannotRun(str(error)) from None

    def start_cell(self) -> None:
        """Start counting the seconds that `seconds_of_others` returns."""
        self._seconds_of_others = {}

    def seconds_of_others(self) -> float:
        """Return the seconds that other cells spent on the attacked images used by the running cell."""
        return sum(self._seconds_of_others.values())

    def clear(self) -> None:
        """Drop all attacked images."""
        self._cache.clear()

    def crafted(self, cell: Cell) -> Crafted:
        """Return the attacked images of a cell, crafted once for all cells that share them."""
        if cell.crafting in self._cache and self._cache[cell.crafting].pixels.intact():
            self._seconds_of_others.setdefault(cell.crafting, self._cache[cell.crafting].seconds)
        else:
            self._cache[cell.crafting] = self._craft(cell)
            self._seconds_of_others[cell.crafting] = 0.0  # by this cell itself
            while sum(crafted.pixels.bytes for crafted in self._cache.values()) > CACHED_BYTES and len(self._cache) > 1:
                self._cache.popitem(last=False)
        self._cache.move_to_end(cell.crafting)
        return self._cache[cell.crafting]

    def _craft(self, cell: Cell) -> Crafted:
        attack: Attack = ATTACKS.build(cell.attack)
        if isinstance(attack, Ensemble):
            return self._craft_members(cell, attack)
        clean = self._scorer.clean(*cell.crafted_on, cell.seed)
        attacked = attacked_model(cell)
        crafter = Crafter(
            cell,
            attack,
            self._pool.ready(*attacked),
            clean,
            self._samples,
            self._images,
            self._pool.batch(*attacked, halvings=self._scorer.halvings),
            self._pool.engine.device,
            self.fits if isinstance(attack, FittedAttack) else None,
            self._ids.ingredients(cell, *cell.crafted_on),
        )
        return crafter.craft()

    def _craft_members(self, cell: Cell, ensemble: Ensemble) -> Crafted:
        """Choose for each image the result of the member that is worst for the model under attack."""
        clean = self._scorer.clean(*cell.crafted_on, cell.seed)
        labels = torch.tensor([sample.mos for sample in self._samples], dtype=torch.float32)
        objective = Objective(
            cell.objective, clean, float(clean[torch.isfinite(clean)].mean()), None if labels.isnan().any() else labels
        )
        members, badness = [], []
        for member, kind in ensemble.members:
            member_cell = replace(cell, attack=member.name, objective=kind)
            members.append(self.crafted(member_cell))
            quality = self._scorer.score(*cell.crafted_on, members[-1].pixels, digest(member_cell.crafting, "adv"))
            badness.append(ensemble.badness(objective, quality).nan_to_num(-torch.inf))
        chosen = torch.stack(badness).argmax(dim=0).tolist()
        table = pd.concat([members[k].table.iloc[[i]] for i, k in enumerate(chosen)], ignore_index=True)
        for cost in ("forwards", "backwards"):
            table[cost] = sum(member.table[cost] for member in members)
        table["status"] = [max((m.table.status[i] for m in members), key=STATUSES.index) for i in range(len(chosen))]
        pixels = AttackedImages(len(chosen))
        for index, k in enumerate(chosen):
            pixels.put(index, members[k].pixels[index])
        return Crafted(
            pixels,
            table,
            sum(member.seconds for member in members),
            sorted({flag for m in members for flag in m.flags}),
            [error for m in members for error in m.errors],
        )
