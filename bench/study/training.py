"""Training of every variant with every seed, at equal budget from the same start weights."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from iqarena.bench.datasets import open_dataset
from iqarena.bench.registry import parse_spec
from iqarena.bench.study.variants import MODEL, SCHEDULE, Variant, trained_variants
from iqarena.bench.training import fit
from iqarena.defenses.training.loop import Progress, Schedule
from iqarena.models.zoo import weight_file


@dataclass(frozen=True)
class Training:
    """The training of one set of weights."""

    variant: Variant
    seed: int

    @property
    def schedule(self) -> Schedule:
        """The schedule of the study with this seed."""
        return replace(SCHEDULE, seed=self.seed)

    def file(self, out: Path | None = None) -> Path:
        """Return the file of the weights in a folder, or in the zoo if `out` is None."""
        return weight_file(MODEL, parse_spec(self.variant.recipe)[0], out, self.variant.weights(self.seed))

    def command(self, root: Path, start: Path, out: Path) -> str:
        """Return the shell command that trains these weights."""
        options = {
            "-m": MODEL,
            "-d": self.variant.recipe,
            "--root": root,
            "--start": start,
            "--passes": SCHEDULE.passes,
            "--crop": SCHEDULE.crop,
            "--learning-rate": SCHEDULE.learning_rate,
            "--ema": SCHEDULE.ema,
            "--seed": self.seed,
            "--label": self.variant.weights(self.seed),
            "--out": out,
        }
        return shlex.join(["iqarena", "train", *(str(part) for option in options.items() for part in option)])

    def run(self, root: Path, start: Path, out: Path, report: Callable[[Progress], None]) -> Path:
        """Train the weights; an interrupted training is resumed.

        Raises:
            UserError: for anything that the caller can correct.
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
    """Yield all trainings of the study whose weights are not in the zoo."""
    for variant, seed in trained_variants():
        training = Training(variant, seed)
        if not training.file().is_file():
            yield training
