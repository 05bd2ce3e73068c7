"""Measured figures and their measurement: jobs in turns, medians."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TURNS = 5
"""Least number of turns of each job, not counting a first one that warms up."""

SHORTEST = 0.3
"""Least seconds a turn; shorter jobs are repeated."""


@dataclass(frozen=True)
class Row:
    """A measured figure.

    Attributes:
        group: the group of ``python -m tests.speed`` that measures it.
        name: name of the figure.
        value: median of the turns.
        unit: "×" for a ratio.
        wanted: its limit, such as "≤ 1.03"; empty if there is none.
        spread: least and largest value over the turns.
        note: remarks.
    """

    group: str
    name: str
    value: float
    unit: str = "×"
    wanted: str = ""
    spread: tuple[float, float] | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it meets its limit; None if there is none."""
        if not self.wanted:
            return None
        sign, limit = self.wanted.split()[:2]
        return self.value <= float(limit) if sign == "≤" else self.value >= float(limit)


def in_turns(jobs: Sequence[Callable[[], object]], turns: int) -> list[list[float]]:
    """Run jobs in turns; return the CPU seconds of this process for each, which exclude the load of other processes.

    Args:
        jobs: run one after the other in every turn.
        turns: number of turns, after one that warms up.
    """
    taken: list[list[float]] = [[] for _ in jobs]
    repeats = [1] * len(jobs)
    for turn in range(turns + 1):
        for index, job in enumerate(jobs):
            gc.collect()
            started = time.process_time()
            for _ in range(repeats[index]):
                job()
            seconds = (time.process_time() - started) / repeats[index]
            if turn == 0:
                repeats[index] = min(max(math.ceil(SHORTEST / max(seconds, 1e-9)), 1), 10_000)
            else:
                taken[index].append(seconds)
    return taken


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return median, least and largest of the turns' ratios."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return statistics.median(ratios), (min(ratios), max(ratios))
