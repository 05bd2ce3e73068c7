"""Makes the attacked images of one cell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from iqarena.attacks.base import Attack, Generators
from iqarena.attacks.fitted import FittedAttack
from iqarena.attacks.objective import Objective
from iqarena.attacks.whole_set import SetAttack
from iqarena.bench.cells import Cell, digest
from iqarena.bench.datasets.base import Sample
from iqarena.bench.datasets.image_store import AttackedImages, CleanImages
from iqarena.bench.errors import describe
from iqarena.bench.evaluation.fit_cache import CachedFit, FitCache
from iqarena.bench.evaluation.judge import inside_threat, quantize
from iqarena.bench.inference.isolation import OutOfMemory, out_of_memory, undisturbed
from iqarena.bench.inference.query_trace import CHECKPOINTS, QueryTrace, curve
from iqarena.bench.inference.target import ModelError, Target, frozen
from iqarena.bench.metrics.image_distances import distances
from iqarena.models.base import QualityModel

DEAD_SHARE = 0.05
"""Share of zero or NaN gradients above which a cell is flagged."""


@dataclass
class Crafted:
    """Attacked images as stored, and what making them took.

    Attributes:
        pixels: the images.
        table: distances, forwards, backwards, status; a row an image.
        seconds: wall time.
        flags, errors: of the cell.
        fits: what is to be said of the fits that were used.
        curve: how far the attack had come after so many forwards, see `iqarena.bench.inference.query_trace.curve`.
    """

    pixels: AttackedImages
    table: pd.DataFrame
    seconds: float
    flags: list[str]
    errors: list[str]
    fits: list[dict[str, Any]] = field(default_factory=list)
    curve: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Batch:
    """Some images of one shape and one fold that are attacked at once."""

    index: list[int]
    image_set: CleanImages
    target: Target
    labels: torch.Tensor | None
    generators: Generators
    learnt: CachedFit | None
    device: str

    @property
    def clean(self) -> torch.Tensor:
        """(N, 3, H, W) uint8, not on the device; stacked when needed, so that only one batch is."""
        return torch.stack([self.image_set[i] for i in self.index])

    @property
    def images(self) -> torch.Tensor:
        return self.clean.to(self.device).float() / 255


class Crafter:
    """One cell's images through its attack, batch by batch.

    Args:
        cell, attack: whose.
        seen: the model that the attacker sees.
        clean: its clean qualities (n,) of all images.
        samples, images: the image set, uint8.
        batch: images at once.
        device: where the model is.
        fits: where a fitted attack gets what it has learnt.
        ingredients: hashes of code and weights that a fit depends on.
    """

    def __init__(
        self,
        cell: Cell,
        attack: Attack,
        seen: QualityModel,
        clean: torch.Tensor,
        samples: Sequence[Sample],
        images: CleanImages,
        batch: int,
        device: str,
        fits: FitCache | None,
        ingredients: object,
    ) -> None:
        self.cell, self.attack, self.seen = cell, attack, seen
        self.samples, self.images = samples, images
        self.device = device
        self.batch = 1 if seen.info.stochastic or not attack.batches else batch
        self.clean, self.data_mean = clean, float(clean[torch.isfinite(clean)].mean())
        self.fits, self.ingredients = fits, ingredients
        self.flags: set[str] = set()
        self.errors: list[str] = []

    def craft(self) -> Crafted:
        """Attack all images; what goes wrong in a batch becomes the status of its images."""
        started = time.perf_counter()
        pixels = AttackedImages(len(self.images))
        tables: list[pd.DataFrame] = []
        gradients = dead = 0
        with frozen(self.seen):
            batches = list(self._batches())
            aims = self._aims(batches)
            for batch in batches:
                stored, table = self._attack_and_store(batch, None if aims is None else aims[batch.index])
                gradients += int(batch.target.counts.gradients.sum())
                dead += int(batch.target.counts.zero_gradients.sum())
                for row, index in enumerate(batch.index):
                    pixels.put(index, stored[row])
                tables.append(table.set_axis(batch.index))
        if dead > DEAD_SHARE * gradients:
            self.flags.add("zero-gradient")
        whole = pd.concat(tables).sort_index()
        learnt = {b.learnt.facts["sha256"]: b.learnt.facts for b in batches if b.learnt}
        seconds = time.perf_counter() - started
        return Crafted(pixels, whole, seconds, sorted(self.flags), self.errors, list(learnt.values()), self._curve(batches))

    def _curve(self, batches: Sequence[_Batch]) -> dict[str, Any]:
        count = len(self.images)
        clean, seen = torch.full((count,), torch.nan), torch.full((count, len(CHECKPOINTS)), torch.nan)
        forwards, labels = torch.zeros(count, dtype=torch.int64), torch.tensor([sample.mos for sample in self.samples])
        for batch in batches:
            if batch.target.trail is not None:
                clean[batch.index] = batch.target.trail.objective.clean.cpu()
                seen[batch.index] = batch.target.trail.seen.cpu()
                forwards[batch.index] = batch.target.counts.forwards
        return curve(clean, seen, forwards, labels)

    def _batches(self) -> Iterator[_Batch]:
        """Images in batches of one shape, and for a fitted attack of one fold."""
        learnt: dict[int, CachedFit] = {}
        groups: dict[tuple[tuple[int, int], int], list[int]] = {}
        for index, (sample, size) in enumerate(zip(self.samples, self.images.sizes, strict=True)):
            fold = self.fits.folds[sample.reference_id] if self.fits else 0
            groups.setdefault((size, fold), []).append(index)
        for (_, fold), indices in groups.items():
            if isinstance(self.attack, FittedAttack) and self.fits and fold not in learnt:
                learnt[fold] = self.fits.learn(self.attack, self.cell, self.seen, self.ingredients, fold)
            for start in range(0, len(indices), self.batch):
                group = indices[start : start + self.batch]
                seeds = [seed_of(self.cell.crafting, self.samples[i].image_id) for i in group]
                labels = torch.tensor([self.samples[i].mos for i in group], dtype=torch.float32, device=self.device)
                target = Target(
                    self.seen,
                    len(group),
                    self.attack.access,
                    queries=self.cell.queries,
                    draws=self.cell.draws,
                    seed=seeds[0],
                    precision=self.cell.precision,
                )
                yield _Batch(
                    group,
                    self.images,
                    target,
                    None if labels.isnan().any() else labels,
                    Generators(seeds),
                    learnt.get(fold),
                    self.device,
                )

    def _objective(self, batch: _Batch, aims: torch.Tensor | None) -> Objective:
        if self.attack.access == "none":
            quality = torch.full((len(batch.index),), float("nan"), device=self.device)
        elif aims is None:
            quality = batch.target.quality(batch.images)
        else:
            quality = self.clean[batch.index].to(self.device)  # asked for when the set was looked at
        value = self.cell.target if aims is None else aims.to(self.device)
        return Objective(self.cell.objective, quality, self.data_mean, batch.labels, value)

    def _aims(self, batches: Sequence[_Batch]) -> torch.Tensor | None:
        """What a set-level attack wants each image's quality to be, (n,)."""
        if not isinstance(self.attack, SetAttack):
            return None
        seen: dict[int, torch.Tensor] = {}
        for batch in batches:
            objective = self._objective(batch, None)
            facts = self.attack.look(batch.target, batch.images, objective, self.cell.threat, batch.generators)
            seen |= dict(zip(batch.index, facts.cpu(), strict=True))
        facts = torch.stack([seen[i] for i in range(len(self.images))])
        generator = torch.Generator().manual_seed(seed_of(self.cell.crafting, "the whole set"))
        return self.attack.decide(self.clean, facts, generator)

    def _attack_and_store(self, batch: _Batch, aims: torch.Tensor | None) -> tuple[torch.Tensor, pd.DataFrame]:
        """Pixels (N, 3, H, W) uint8 and a row an image."""
        status = np.full(len(batch.index), "ok", dtype=object)
        threat, clean = self.cell.threat, batch.clean
        try:
            attacked = self._attack(batch, aims)
        except (Exception, SystemExit) as error:
            if out_of_memory(error):  # with fewer images at once it may go well
                raise OutOfMemory(describe(error)) from None
            self.errors.append(describe(error))
            status[:] = "failed"
            attacked = clean.float() / 255
        stored = quantize(attacked, clean, threat)
        status[(stored.left_ball & (torch.from_numpy(status == "ok"))).numpy()] = "violation"
        status[stored.not_finite.numpy()] = "not-finite"
        held = inside_threat(stored.pixels, clean, threat).numpy()
        if not held.all():  # the rounding and this check disagree: a bug of ours, never hidden
            status[~held] = "violation"
        if stored.left_ball.any():
            self.flags.add("left-ball")
            self.errors.append(f"images came back outside {threat.norm} ≤ {threat.size:.5g}, and were projected")
        if stored.not_finite.any():
            self.errors.append("images came back with NaN or infinities, and the clean ones were stored")
        table = distances(stored.pixels, clean)
        table["forwards"] = batch.target.counts.forwards.numpy()
        table["backwards"] = batch.target.counts.backwards.numpy()
        table["status"] = status
        return stored.pixels, table

    def _attack(self, batch: _Batch, aims: torch.Tensor | None) -> torch.Tensor:
        images, learnt = batch.images, {"fit": batch.learnt.fit} if batch.learnt else {}
        objective = self._objective(batch, aims)
        batch.target.trail = QueryTrace(objective)
        with undisturbed():  # the next batch, and what scores these images, find all as it was
            attacked = self.attack.run(batch.target, images, objective, self.cell.threat, batch.generators, **learnt)
        if not isinstance(attacked, torch.Tensor) or attacked.shape != images.shape:
            shape = tuple(attacked.shape) if isinstance(attacked, torch.Tensor) else type(attacked).__name__
            raise ModelError(f"{self.cell.attack}: returned {shape} for images of shape {tuple(images.shape)}")
        return attacked.detach().cpu()


def seed_of(*names: str) -> int:
    """A seed from names; the same whatever the order, the batch or the number of workers."""
    return int(digest(*names)[:15], 16)
