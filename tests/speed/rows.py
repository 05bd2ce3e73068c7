"""A measured figure, and how figures are measured: jobs by turns, medians."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TURNS = 5
"""Of each job, at least; one before them warms up and does not count."""

SHORTEST = 0.3
"""Seconds a turn; shorter jobs are repeated."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        group: which call of ``python -m tests.speed`` measures it.
        name: what it is.
        value: median of the turns.
        unit: "×" for a ratio.
        wanted: what it should be, such as "≤ 1.03"; empty where nothing was promised.
        spread: least and largest of the turns.
        words: what else has to be known.
    """

    group: str
    name: str
    value: float
    unit: str = "×"
    wanted: str = ""
    spread: tuple[float, float] | None = None
    words: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is what it should be; None where nothing was promised."""
        if not self.wanted:
            return None
        sign, limit = self.wanted.split()[:2]
        return self.value <= float(limit) if sign == "≤" else self.value >= float(limit)


def in_turns(jobs: Sequence[Callable[[], object]], turns: int) -> list[list[float]]:
    """Processor seconds of this process that jobs take, a list for each, run by turns: wall time but for what others take.

    Args:
        jobs: run one after the other in every turn.
        turns: how often, after one that warms up.
    """
    taken: list[list[float]] = [[] for _ in jobs]
    repeats = [1] * len(jobs)
    for turn in range(turns + 1):
        for place, job in enumerate(jobs):
            gc.collect()
            started = time.process_time()
            for _ in range(repeats[place]):
                job()
            seconds = (time.process_time() - started) / repeats[place]
            if turn == 0:
                repeats[place] = min(max(math.ceil(SHORTEST / max(seconds, 1e-9)), 1), 10_000)
            else:
                taken[place].append(seconds)
    return taken


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Median, least and largest of the turns' ratios."""
    found = [a / b for a, b in zip(one, other, strict=True)]
    return statistics.median(found), (min(found), max(found))
