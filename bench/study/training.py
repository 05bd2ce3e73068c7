"""Trains what the study compares: every variant with every seed, at equal budget from the same start weights."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from iqarena.bench.datasets import open_dataset
from iqarena.bench.registry import parse_spec
from iqarena.bench.study.variants import MODEL, SCHEDULE, Variant, trained
from iqarena.bench.training import fit
from iqarena.defenses.training.loop import Progress, Schedule
from iqarena.models.zoo import weight_file


@dataclass(frozen=True)
class Training:
    """One set of weights."""

    variant: Variant
    seed: int

    @property
    def schedule(self) -> Schedule:
        """That of the study, with this seed."""
        return replace(SCHEDULE, seed=self.seed)

    def file(self, out: Path | None = None) -> Path:
        """Where its weights lie, in the zoo or in a folder."""
        return weight_file(MODEL, parse_spec(self.variant.recipe)[0], out, self.variant.weights(self.seed))

    def command(self, root: Path, start: Path, out: Path) -> str:
        """What makes them by hand."""
        words = [
            "iqarena",
            "train",
            "-m",
            MODEL,
            "-d",
            self.variant.recipe,
            "--root",
            root,
            "--start",
            start,
            "--passes",
            SCHEDULE.passes,
            "--crop",
            SCHEDULE.crop,
            "--learning-rate",
            SCHEDULE.learning_rate,
            "--ema",
            SCHEDULE.ema,
            "--seed",
            self.seed,
            "--label",
            self.variant.weights(self.seed),
            "--out",
            out,
        ]
        return shlex.join(map(str, words))

    def run(self, root: Path, start: Path, out: Path, report: Callable[[Progress], None]) -> Path:
        """Train; goes on where a killed run stopped.

        Raises:
            UserError: for anything that the caller can mend.
        """
        return fit(
            MODEL,
            self.variant.recipe,
            open_dataset("folder", root),
            self.schedule,
            out,
            start=start,
            label=self.variant.weights(self.seed),
            report=report,
        )


def trainings() -> Iterator[Training]:
    """All of the study whose weights do not ship."""
    everything = (Training(variant, seed) for variant, seed in trained())
    yield from (training for training in everything if not training.file().is_file())
