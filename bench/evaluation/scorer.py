"""Scores of deployed models on stored images, and all other measurements of a model and its defense once per run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice

import numpy as np
import torch

from iqarena.bench.cells import Cell, digest
from iqarena.bench.datasets.base import Sample
from iqarena.bench.datasets.image_store import CleanImages
from iqarena.bench.evaluation.certification import Certified, certified, radius_of
from iqarena.bench.evaluation.crafting import Crafted, seed_of
from iqarena.bench.evaluation.filter_fidelity import filter_fidelity
from iqarena.bench.inference.isolation import seeded
from iqarena.bench.inference.model_pool import ModelPool
from iqarena.bench.inference.runtime_flags import differ, optimises
from iqarena.bench.inference.target import checked_quality, frozen
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.certified.base import CertifiedDefense
from iqarena.defenses.purification.base import Purification, PurifiedModel

TIMED_IMAGES, TIMED_TURNS = 8, 5
"""Images and repetitions for timing a defense: few, since it is timed in every run."""


class Scorer:
    """Scores the images of one set; results that do not depend on the attack are computed once.

    Args:
        pool: the models of the run.
        samples: the image set.
        images: its clean images.

    Attributes:
        halvings: how often the batch size is halved for the running cell, after it ran out of memory before.
    """

    def __init__(self, pool: ModelPool, samples: Sequence[Sample], images: CleanImages) -> None:
        self._pool, self._samples, self._images = pool, samples, images
        self.halvings = 0
        self._clean: dict[tuple[str, str, int, int], torch.Tensor] = {}
        self._speed: dict[tuple[str, str], tuple[float, float]] = {}
        self._flags: dict[tuple[str, str], list[str]] = {}
        self._certified: dict[tuple[str, str, float, int], Certified] = {}

    def clear(self) -> None:
        """Forget the clean scores."""
        self._clean.clear()

    def score(self, model: str, defense: str, pixels: Sequence[torch.Tensor], seed: str) -> torch.Tensor:
        """Score the first N stored images, uint8, and return qualities (N,) in float32; NaN and infinities are kept."""
        scores, deployed = torch.empty(len(pixels)), self._pool.ready(model, defense)
        most = 1 if deployed.info.stochastic else self._pool.batch(model, defense, halvings=self.halvings)
        device = self._pool.engine.device
        with frozen(deployed), torch.inference_mode():
            for group in self._groups(len(pixels), most):
                batch = torch.stack([pixels[i] for i in group]).to(device).float() / 255
                image_id = self._samples[group[0]].image_id
                with seeded(seed_of(seed, image_id)) if deployed.info.stochastic else nullcontext():
                    scores[group] = checked_quality(deployed, batch).cpu()
        return scores

    def _groups(self, count: int, most: int) -> Iterator[list[int]]:
        """Yield indices of the first `count` images in groups of at most `most` images of the same size."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(self._images.sizes[:count]):
            by_size.setdefault(size, []).append(index)
        for indices in by_size.values():
            for start in range(0, len(indices), most):
                yield indices[start : start + most]

    def clean(self, model: str, defense: str, seed: int) -> torch.Tensor:
        """Return clean qualities (N,) of the deployed model; computed once."""
        key = (model, defense, seed, self.halvings)  # the batch size changes the last digits
        if key not in self._clean:
            self._clean[key] = self.score(model, defense, self._images, digest((model, defense, seed), "clean"))
        return self._clean[key]

    def speed(self, model: str, defense: str) -> tuple[float, float]:
        """Return seconds per image of the deployed and the undefended model: medians of interleaved turns, measured once."""
        if (model, defense) not in self._speed:
            same = self._pool.ready(model, defense) is self._pool.ready(model, "none")
            pair = ["none"] if same else [defense, "none"]
            timed = list(islice(self._images, TIMED_IMAGES))
            taken: list[list[float]] = [[] for _ in pair]
            for turn in range(TIMED_TURNS + 1):
                for tested, times in zip(pair, taken, strict=True):
                    started = time.perf_counter()
                    self.score(model, tested, timed, "speed")
                    if turn > 0:  # the first turn warms up
                        times.append((time.perf_counter() - started) / len(timed))
            medians = [float(np.median(times)) for times in taken]
            self._speed[model, defense] = (medians[0], medians[-1])
        return self._speed[model, defense]

    def runtime_flags(self, model: str, defense: str) -> list[str]:
        """Return the flags raised by the deployed model's behaviour during scoring; determined once."""
        if (model, defense) not in self._flags:
            deployed, images = self._pool.ready(model, defense), list(islice(self._images, 2))
            flags = []
            if differ([self.score(model, defense, images, "conduct") for _ in range(2)]):
                flags.append("undeclared-randomness")
            if self._pool.depends_on_batch(model, defense):
                flags.append("depends-on-batch")
            if optimises(deployed, images[0][None].to(self._pool.engine.device).float() / 255):
                flags.append("optimises-in-forward")
            self._flags[model, defense] = flags
        return self._flags[model, defense]

    def certified(self, cell: Cell) -> Certified | None:
        """Return the certificates of all images, which do not depend on the attack; None if the defense gives none."""
        defense, radius = DEFENSES.build(cell.defense), radius_of(cell.threat)
        if not isinstance(defense, CertifiedDefense):
            return None
        key = (cell.model, cell.defense, radius, cell.seed)
        if key not in self._certified:
            model, device = self._pool.ready(cell.model, "none"), self._pool.engine.device
            seeds = [seed_of(digest(key, "certificate"), sample.image_id) for sample in self._samples]
            images = (image.to(device) for image in self._images)
            self._certified[key] = certified(defense, model, images, seeds, radius)
        return self._certified[key]

    def filter_fidelity(self, cell: Cell, crafted: Crafted) -> dict[str, float] | None:
        """Compare images before and after the deployed filter of a cell; None if the defense is not a filter."""
        defense, deployed = DEFENSES.build(cell.defense), self._pool.ready(cell.model, cell.defense)
        if not (isinstance(defense, Purification) and isinstance(deployed, PurifiedModel)):
            return None
        device = self._pool.engine.device
        pairs = ((x.to(device), y.to(device)) for x, y in zip(self._images, crafted.pixels, strict=True))
        seeds = [seed_of(digest(cell.crafting, "purified"), sample.image_id) for sample in self._samples]
        return filter_fidelity(deployed, defense.moves_pixels, pairs, seeds)
