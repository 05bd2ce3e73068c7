"""Crafting of the attacked images of one cell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from iqarena.bench.inference.isolation import OutOfMemory, PastTarget, out_of_memory, undisturbed, watched
from iqarena.bench.inference.query_trace import CHECKPOINTS, QueryTrace, curve
from iqarena.bench.inference.target import ModelError, Target, frozen
from iqarena.bench.metrics.image_distances import distances
from iqarena.bench.process import asks_to_stop
from iqarena.models.base import QualityModel

DEAD_SHARE = 0.05
"""Share of zero or NaN gradients above which a cell gets the flag `zero-gradient`."""


@dataclass
class Crafted:
    """Attacked images as stored, and the cost of crafting them.

    Attributes:
        pixels: the images.
        table: distances, forwards, backwards, status; one row per image.
        seconds: wall time.
        flags, errors: flags and error messages of the cell.
        fits: descriptions of the fits that were used.
        curve: progress of the attack by forward passes, see `iqarena.bench.inference.query_trace.curve`.
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
    """Images of one shape and one fold that are attacked together."""

    indices: list[int]
    image_set: CleanImages
    target: Target
    labels: torch.Tensor | None
    generators: Generators
    cached_fit: CachedFit | None
    device: str

    @property
    def clean(self) -> torch.Tensor:
        """(N, 3, H, W) uint8, not on the device; stacked on demand, so that only one batch is in memory."""
        return torch.stack([self.image_set[i] for i in self.indices])

    @property
    def images(self) -> torch.Tensor:
        return self.clean.to(self.device).float() / 255


class Crafter:
    """Runs the attack of one cell on all images, batch by batch.

    Args:
        cell, attack: the cell and its attack.
        seen: the model that the attacker sees.
        clean: its clean qualities (n,) of all images.
        samples, images: the image set, uint8.
        batch: batch size.
        device: device of the model.
        fits: cache of the fits of fitted attacks.
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
        self.past = PastTarget()
        self.disturbed: list[str] = []  # what the attack did to this process and must not do

    def craft(self) -> Crafted:
        """Attack all images; an error in a batch becomes the status of its images."""
        started = time.perf_counter()
        pixels = AttackedImages(len(self.images))
        tables: list[pd.DataFrame] = []
        gradients = dead = 0
        with frozen(self.seen):
            with undisturbed() as self.disturbed:
                batches = list(self._batches())
                targets = self._target_qualities(batches)
            for batch in batches:
                stored, table = self._attack_and_store(batch, None if targets is None else targets[batch.indices])
                gradients += int(batch.target.counts.gradients.sum())
                dead += int(batch.target.counts.zero_gradients.sum())
                for row, index in enumerate(batch.indices):
                    pixels.put(index, stored[row])
                tables.append(table.set_axis(batch.indices))
        self.errors += sorted({reason for batch in batches if (reason := self._past_target(batch))})
        if dead > DEAD_SHARE * gradients:
            self.flags.add("zero-gradient")
        whole = pd.concat(tables).sort_index()
        fits = {b.cached_fit.facts["sha256"]: b.cached_fit.facts for b in batches if b.cached_fit}
        seconds = time.perf_counter() - started
        return Crafted(pixels, whole, seconds, sorted(self.flags), self.errors, list(fits.values()), self._curve(batches))

    def _curve(self, batches: Sequence[_Batch]) -> dict[str, Any]:
        count = len(self.images)
        clean, seen = torch.full((count,), torch.nan), torch.full((count, len(CHECKPOINTS)), torch.nan)
        forwards, labels = torch.zeros(count, dtype=torch.int64), torch.tensor([sample.mos for sample in self.samples])
        for batch in batches:
            if batch.target.trace is not None:
                clean[batch.indices] = batch.target.trace.objective.clean.cpu()
                seen[batch.indices] = batch.target.trace.seen.cpu()
                forwards[batch.indices] = batch.target.counts.forwards
        return curve(clean, seen, forwards, labels)

    def _batches(self) -> Iterator[_Batch]:
        """Yield the images in batches of one shape and, for a fitted attack, of one fold."""
        cached_fits: dict[int, CachedFit] = {}
        groups: dict[tuple[tuple[int, int], int], list[int]] = {}
        for index, (sample, size) in enumerate(zip(self.samples, self.images.sizes, strict=True)):
            fold = self.fits.folds[sample.reference_id] if self.fits else 0
            groups.setdefault((size, fold), []).append(index)
        for (_, fold), indices in groups.items():
            if isinstance(self.attack, FittedAttack) and self.fits and fold not in cached_fits:
                cached_fits[fold] = self.fits.fit(self.attack, self.cell, self.seen, self.ingredients, fold)
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
                    cached_fits.get(fold),
                    self.device,
                )

    def _objective(self, batch: _Batch, targets: torch.Tensor | None) -> Objective:
        if self.attack.access == "none":
            quality = torch.full((len(batch.indices),), float("nan"), device=self.device)
        elif targets is None:
            quality = batch.target.quality(batch.images)
        else:
            quality = self.clean[batch.indices].to(self.device)  # already queried in the first pass over the set
        value = self.cell.target if targets is None else targets.to(self.device)
        return Objective(self.cell.objective, quality, self.data_mean, batch.labels, value)

    def _target_qualities(self, batches: Sequence[_Batch]) -> torch.Tensor | None:
        """Return the target quality of each image, (n,), if the attack is a set-level attack."""
        if not isinstance(self.attack, SetAttack):
            return None
        seen: dict[int, torch.Tensor] = {}
        for batch in batches:
            objective = self._objective(batch, None)
            with watched(self.seen, self.past):
                facts = self.attack.look(batch.target, batch.images, objective, self.cell.threat, batch.generators)
            seen |= dict(zip(batch.indices, facts.cpu(), strict=True))
        facts = torch.stack([seen[i] for i in range(len(self.images))])
        generator = torch.Generator().manual_seed(seed_of(self.cell.crafting, "the whole set"))
        return self.attack.decide(self.clean.clone(), facts, generator)

    def _attack_and_store(self, batch: _Batch, targets: torch.Tensor | None) -> tuple[torch.Tensor, pd.DataFrame]:
        """Attack a batch; return the stored pixels (N, 3, H, W) uint8 and a table with one row per image."""
        status = np.full(len(batch.indices), "ok", dtype=object)
        threat, clean = self.cell.threat, batch.clean
        try:
            attacked = self._attack(batch, targets)
        except BaseException as error:
            if asks_to_stop(error):
                raise
            if out_of_memory(error):  # the cell is run again with a smaller batch
                raise OutOfMemory(describe(error)) from None
            self.errors.append(describe(error))
            status[:] = "failed"
            attacked = clean.float() / 255
        self.errors += [reason for reason in self.disturbed if reason not in self.errors]
        if self.disturbed:
            status[:] = "failed"
        stored = quantize(attacked, clean, threat)
        status[(stored.left_ball & (torch.from_numpy(status == "ok"))).numpy()] = "violation"
        if self._past_target(batch):
            status[status == "ok"] = "violation"
        status[stored.not_finite.numpy() & (status != "failed")] = "not-finite"
        inside = inside_threat(stored.pixels, clean, threat).numpy()
        if not inside.all():  # quantize and this check disagree, which is a bug of the benchmark; it must show
            status[~inside] = "violation"
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

    def _past_target(self, batch: _Batch) -> str:
        """Return what the attack, or its fit, has asked past the target so far; empty if nothing."""
        fitted = str(batch.cached_fit.facts.get("past_target", "")) if batch.cached_fit else ""
        return self.past.reason or fitted

    def _attack(self, batch: _Batch, targets: torch.Tensor | None) -> torch.Tensor:
        images, fit = batch.images, {}
        if batch.cached_fit:  # a copy, since the fit is used for the next batch too
            fit = {"fit": {name: value.clone() for name, value in batch.cached_fit.fit.items()}}
        objective = self._objective(batch, targets)
        batch.target.trace = QueryTrace(replace(objective, clean=objective.clean.clone()))
        try:
            with (
                watched(self.seen, self.past),
                undisturbed() as disturbed,
            ):  # an attack must not affect the next batch, or the scoring of its images
                attacked = self.attack.run(batch.target, images, objective, self.cell.threat, batch.generators, **fit)
        finally:
            self.disturbed += disturbed
            if any(module.training for module in self.seen.modules()):
                self.seen.eval()
                self.disturbed.append("it left the model in training mode; that was put back")
        if not isinstance(attacked, torch.Tensor) or attacked.shape != images.shape:
            shape = tuple(attacked.shape) if isinstance(attacked, torch.Tensor) else type(attacked).__name__
            raise ModelError(f"{self.cell.attack}: returned {shape} for images of shape {tuple(images.shape)}")
        return attacked.detach().cpu()


def seed_of(*names: str) -> int:
    """Derive a seed from names, so it does not depend on the order of the work, the batch or the number of workers."""
    return int(digest(*names)[:15], 16)
