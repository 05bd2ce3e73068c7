"""Estimated cost of a full cross-evaluation: ``python -m tests.speed.full``.

`iqarena run SUITE --dry-run` is more accurate, for a suite whose models and data sets are available.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated

import typer

from iqarena.bench.registry import ATTACKS


@dataclass(frozen=True)
class Workload:
    """The workload under one threat model in the settings oblivious and adaptive; `none` counts as a defense.

    Attributes:
        datasets, models, defenses, attacks, images: numbers of each; images are per data set.
        forwards, backwards: passes of an attack on one image.
    """

    datasets: int
    models: int
    defenses: int
    attacks: int
    images: int
    forwards: float
    backwards: float

    @property
    def cells(self) -> int:
        """Number of cells in both settings."""
        return 2 * self.datasets * self.models * self.defenses * self.attacks

    @property
    def craftings(self) -> int:
        """Number of sets of attacked images: all oblivious cells of an attack share that of its undefended adaptive cell."""
        return self.datasets * self.models * self.defenses * self.attacks

    @property
    def crafting_passes(self) -> tuple[float, float]:
        """Forward and backward passes of single images in attacks."""
        each = self.craftings * self.images
        return each * self.forwards, each * self.backwards

    @property
    def scoring_passes(self) -> int:
        """Forward passes of single images to score the attacked images, and the clean images of every defended model."""
        return (self.cells + self.datasets * self.models * self.defenses) * self.images

    def seconds(self, forward: float, backward: float) -> float:
        """Return the seconds on one worker, at the given seconds a pass."""
        forwards, backwards = self.crafting_passes
        return (forwards + self.scoring_passes) * forward + backwards * backward


def usual_passes() -> tuple[float, float, int]:
    """Return the mean of the most forward and backward passes of the built-in attacks that state them, and their number."""
    passes_of_attacks = [ATTACKS.build(name).passes for name in ATTACKS.names() if ":" not in name and ATTACKS.entry(name)]
    known = [passes for passes in passes_of_attacks if passes is not None]
    return statistics.mean(p[0] for p in known), statistics.mean(p[1] for p in known), len(known)


def main(
    datasets: int = 10,
    models: int = 40,
    defenses: int = 40,
    attacks: int = 40,
    images: Annotated[int, typer.Option(help="of each data set")] = 60,
    forward_ms: Annotated[float, typer.Option(help="of one image's forward pass, see `iqarena run --dry-run`")] = 1.0,
    backward_ms: Annotated[float, typer.Option(help="of its backward pass")] = 2.0,
    workers: Annotated[int, typer.Option(help="GPUs or cores")] = 64,
) -> None:
    """Print cells, passes and days."""
    forwards, backwards, known = usual_passes()
    workload = Workload(datasets, models, defenses, attacks, images, forwards, backwards)
    attacking, back = workload.crafting_passes
    days = workload.seconds(forward_ms / 1000, backward_ms / 1000) / 86400
    typer.echo(f"cells: 2 × {datasets} × {models} × {defenses} × {attacks} = {workload.cells:,}")
    typer.echo(f"sets of attacked images: {workload.craftings:,}")
    typer.echo(f"passes an image: {forwards:.0f} forward, {backwards:.0f} backward, the mean of {known} built-in attacks")
    typer.echo(
        f"to attack: {attacking:.3g} forward and {back:.3g} backward passes; to score: {workload.scoring_passes:.3g} forward"
    )
    pace = f"at {forward_ms:g} and {backward_ms:g} ms a pass"
    typer.echo(f"{pace}: {days:,.0f} days of one worker, {days / workers:,.1f} of {workers}")


if __name__ == "__main__":
    typer.run(main)
