"""`iqarena run --dry-run`: estimate the work and the time of a run."""

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
from iqarena.bench.inference.process_state import settled
from iqarena.bench.inference.target import Target, frozen
from iqarena.bench.process import asks_to_stop
from iqarena.bench.registry import ATTACKS
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Suite

_TIMED_IMAGES = 4
"""Images in the batch whose forward and backward pass is timed."""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a run.

    Attributes:
        done, skipped, to_do: numbers of cells.
        craftings: number of sets of attacked images that the missing cells need.
        forwards, backwards: upper bounds on the passes of the attacks that declare their cost; including the clean and
            attacked scores, and every draw of an attacked stochastic model.
        unknown: names of attacks that do not declare their cost.
        seconds: time on this machine, sequentially, from a timed pass of each model.
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
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    fresh: bool = False,
    keep_images: bool = False,
    isolated: bool = False,
) -> Estimate:
    """Estimate the cost of the missing cells by timing a forward and a backward pass of every attacked model.

    Args:
        evaluator: evaluator of the cells' image set.
        cells: the planned cells.
        records: where finished cells are.
        fresh, keep_images, isolated: options of the run, see `iqarena.bench.executors.schedule.missing`.

    Raises:
        UserError: for unknown names and unusable weights, and for a model that raises when it is timed.
    """
    outcome, to_do = missing(evaluator, cells, records, fresh, keep_images, isolated)
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
        forwards_here, backwards_here = draws * count * (attack.passes[0] + 1), draws * count * attack.passes[1]
        forwards, backwards = forwards + forwards_here, backwards + backwards_here
        seconds += forwards_here * forward + backwards_here * backward
    for cell, _ in to_do:
        forwards += count
        seconds += count * cost(cell, gradient=False)[0]
    return Estimate(
        outcome.kept, len(outcome.skipped), len(to_do), len(craftings), forwards, backwards, tuple(sorted(unknown)), seconds
    )


@settled()
def dry_run(
    suite: Suite,
    root: Path | None,
    records: Records,
    fresh: bool = False,
    keep_images: bool = False,
    isolate: bool = False,
) -> list[str]:
    """Return the lines that describe the estimate.

    Args:
        suite, root, records, fresh, keep_images, isolate: arguments of the run, see `iqarena.bench.executors.execute`.

    Raises:
        UserError: for errors that the caller can fix.
    """
    engine = Engine(suite.device, suite.compile).checked()
    evaluator = Evaluator(open_dataset(suite.dataset, root), suite.limit, suite.batch, engine=engine)
    cost = estimate(evaluator, expand(suite), records, fresh, keep_images, isolate)
    lines = [
        f"{cost.to_do} cells to run, {cost.done} done before, {cost.skipped} skipped; {len(evaluator.samples)} images each",
        f"{cost.craftings} sets of attacked images to make: at most {cost.forwards:,} forward and "
        f"{cost.backwards:,} backward passes",
        f"about {timedelta(seconds=math.ceil(cost.seconds))} here (h:mm:ss), if every attack takes all that it may",
    ]
    if cost.unknown:
        lines.append(f"not counted, as they cannot say: {', '.join(cost.unknown)}")
    return lines


def _seconds(evaluator: Evaluator, cell: Cell, gradient: bool) -> tuple[float, float]:
    """Return the seconds per image of a forward and of a backward pass.

    Raises:
        UserError: where the model raises or has no gradient; in a run its cells would fail.
    """
    model = evaluator.pool.ready(*cell.crafted_on, surrogate=gradient)
    image = next(iter(evaluator.images))
    images = torch.stack([other for other in islice(evaluator.images, _TIMED_IMAGES) if other.shape == image.shape])
    images = images.to(evaluator.pool.engine.device).float() / 255
    try:
        with frozen(model):
            target = Target(model, len(images), "gradient" if gradient else "score", precision=cell.precision)
            seconds = [_timed(lambda: target.quality(images))]
            if gradient:
                seconds.append(_timed(lambda: target.quality_and_grad(images, lambda quality: quality)) - seconds[0])
    except BaseException as error:
        if asks_to_stop(error):
            raise
        defense = "" if cell.crafted_on[1] == "none" else f" behind {cell.crafted_on[1]}"
        raise UserError(f"{cell.crafted_on[0]}{defense} cannot be timed ({describe(error)})") from None
    return seconds[0] / len(images), max(seconds[-1], 0.0) / len(images)


def _timed(call: Callable[[], object]) -> float:
    call()  # warm-up
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
