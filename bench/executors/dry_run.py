"""`iqarena run --dry-run`: what a run would do, and about how long that takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch

from iqarena.attacks.base import GRADIENT_ACCESS
from iqarena.bench.cells import Cell, expand
from iqarena.bench.datasets import open_dataset
from iqarena.bench.errors import UserError, describe
from iqarena.bench.evaluation.cell_id import attacked_model
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors.schedule import missing
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.target import Target, frozen
from iqarena.bench.registry import ATTACKS
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Suite

_TRIED = 4
"""Images of which one forward and one backward pass is timed."""


@dataclass(frozen=True)
class Estimate:
    """What a run would do.

    Attributes:
        done, skipped, to_do: cells.
        craftings: sets of attacked images that have to be made for those to do.
        forwards, backwards: at most, of those whose attack can say; clean scores and those of the attacked among them, and
            every draw of a stochastic model that is attacked.
        unknown: names of attacks that cannot say.
        seconds: on this machine, one after the other, from a timed pass of each model.
    """

    done: int
    skipped: int
    to_do: int
    craftings: int
    forwards: int
    backwards: int
    unknown: tuple[str, ...]
    seconds: float


def estimate(
    evaluator: Evaluator, cells: list[Cell], records: Records, fresh: bool = False, keep_images: bool = False
) -> Estimate:
    """An estimate for what is missing of a plan; asks every model that is attacked for one forward and one backward pass.

    Args:
        evaluator: of the cells' image set.
        cells: the plan.
        records: where finished cells are.
        fresh, keep_images: of the run, see `iqarena.bench.executors.schedule.missing`.

    Raises:
        UserError: for unknown names and unusable weights, and for a model that cannot be asked.
    """
    outcome, to_do = missing(evaluator, cells, records, fresh, keep_images)
    count = len(evaluator.samples)
    craftings = {cell.crafting: cell for cell, _ in to_do}
    forwards = backwards = 0
    seconds = 0.0
    unknown: set[str] = set()
    timed: dict[tuple[str, str, bool], tuple[float, float]] = {}

    def cost(cell: Cell, gradient: bool) -> tuple[float, float]:
        key = (*cell.crafted_on, gradient)
        if key not in timed:
            timed[key] = _seconds(evaluator, cell, gradient)
        return timed[key]

    for cell in craftings.values():
        attack = ATTACKS.build(cell.attack)
        if attack.passes is None:
            unknown.add(cell.attack)
            continue
        forward, backward = cost(cell, attack.access in GRADIENT_ACCESS)
        draws = cell.draws if evaluator.pool.info(*attacked_model(cell)).stochastic else 1
        own = (draws * count * (attack.passes[0] + 1), draws * count * attack.passes[1])
        forwards, backwards = forwards + own[0], backwards + own[1]
        seconds += own[0] * forward + own[1] * backward
    for cell, _ in to_do:
        forwards += count
        seconds += count * cost(cell, gradient=False)[0]
    return Estimate(
        outcome.kept, len(outcome.skipped), len(to_do), len(craftings), forwards, backwards, tuple(sorted(unknown)), seconds
    )


def dry_run(suite: Suite, root: Path | None, records: Records, fresh: bool = False, keep_images: bool = False) -> list[str]:
    """An estimate in words, one fact a line.

    Args:
        suite, root, records, fresh, keep_images: as of the run, see `iqarena.bench.executors.execute`.

    Raises:
        UserError: for anything that the caller can mend.
    """
    engine = Engine(suite.device, suite.compile).checked()
    evaluator = Evaluator(open_dataset(suite.dataset, root), suite.limit, suite.batch, engine=engine)
    found = estimate(evaluator, expand(suite), records, fresh, keep_images)
    lines = [
        f"{found.to_do} cells to run, {found.done} done before, {found.skipped} skipped; {len(evaluator.samples)} images each",
        f"{found.craftings} sets of attacked images to make: at most {found.forwards:,} forward and "
        f"{found.backwards:,} backward passes",
        f"about {timedelta(seconds=math.ceil(found.seconds))} here (h:mm:ss), if every attack takes all that it may",
    ]
    if found.unknown:
        lines.append(f"not counted, as they cannot say: {', '.join(found.unknown)}")
    return lines


def _seconds(evaluator: Evaluator, cell: Cell, gradient: bool) -> tuple[float, float]:
    """Of one image's forward, and of its backward.

    Raises:
        UserError: where the model raises, or lets no gradient through; in a run its cells fail.
    """
    model = evaluator.pool.ready(*cell.crafted_on, surrogate=gradient)
    image = next(iter(evaluator.images))
    some = torch.stack([p for p in islice(evaluator.images, _TRIED) if p.shape == image.shape])
    some = some.to(evaluator.pool.engine.device).float() / 255
    try:
        with frozen(model):
            target = Target(model, len(some), "gradient" if gradient else "score", precision=cell.precision)
            taken = [_timed(lambda: target.quality(some))]
            if gradient:
                taken.append(_timed(lambda: target.quality_and_grad(some, lambda quality: quality)) - taken[0])
    except (Exception, SystemExit) as error:
        behind = "" if cell.crafted_on[1] == "none" else f" behind {cell.crafted_on[1]}"
        raise UserError(f"{cell.crafted_on[0]}{behind} cannot be timed ({describe(error)})") from None
    return taken[0] / len(some), max(taken[-1], 0.0) / len(some)


def _timed(ask: Callable[[], object]) -> float:
    ask()  # warms up
    started = time.perf_counter()
    ask()
    return time.perf_counter() - started
