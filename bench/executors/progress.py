"""Progress of runs and trainings: a bar with the remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from iqarena.bench.cells import Cell
from iqarena.bench.executors.schedule import Outcome
from iqarena.defenses.training.loop import Progress as TrainingProgress

_PLAIN_EVERY = 10.0  # seconds between plain lines


def name_of(cell: Cell) -> str:
    """Return a one-line name of a cell."""
    return f"{cell.defended} · {cell.attack} · {cell.objective} · {cell.setting} · {cell.norm} {cell.eps:.4g}"


class _Bar:
    """A progress bar on a terminal; where output is piped, `line` prints at most every ten seconds instead."""

    def __init__(self, shown: bool | None = None) -> None:
        self.console = Console(stderr=True, force_terminal=True if shown else None)
        self.plain = not (self.console.is_terminal or self.console.is_jupyter) if shown is None else not shown
        columns = [
            TextColumn("{task.description}", markup=False),  # the brackets of a spec are no markup
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        ]
        self.progress = Progress(*columns, console=self.console, disable=self.plain)
        self.task: TaskID | None = None
        self.last = self.started = time.monotonic()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def update(self, description: str, done: float, total: float) -> None:
        """Update the bar."""
        if self.task is None:
            self.task = self.progress.add_task(description, total=total)
        self.progress.update(self.task, description=description, completed=done, total=total)

    def line(self, text: str, *, always: bool = False) -> None:
        """Print a plain line if output is piped and the last one is ten seconds ago, or always."""
        if self.plain and (always or time.monotonic() - self.last > _PLAIN_EVERY):
            print(text, flush=True)
            self.last = time.monotonic()


class Reporter(_Bar):
    """The progress callback of a run."""

    def __call__(self, event: str, cell: Cell | None, done: int, total: int, message: str) -> None:
        if event == "plan":
            self.line(f"{total} cells to run, {message}", always=True)
        if cell is None:
            return
        self.update(name_of(cell), done, max(total, 1))
        if event == "end":
            left = (time.monotonic() - self.started) / done * (total - done)
            self.line(
                f"{done}/{total} cells, {left:.0f} s left · {name_of(cell)} · {message}",
                always=message != "ok" or done == total,
            )

    def summary(self, outcome: Outcome, out: Path) -> None:
        """Print what was skipped, what failed, and the totals of a run."""
        self.progress.stop()
        reasons: dict[str, int] = {}
        for _, reason in outcome.skipped:
            reasons[reason] = reasons.get(reason, 0) + 1
        for reason, count in reasons.items():
            print(f"skipped {count} cells: {reason}")
        for cell, status, error in outcome.failed:
            print(f"{status}: {name_of(cell)}{': ' if error else ''}{error}")
        print(
            f"{outcome.done} cells run, {outcome.kept} kept from before, {len(outcome.skipped)} skipped, "
            f"{len(outcome.failed)} not ok · {out / 'summary.csv'}"
        )


class CellBar(_Bar):
    """The progress callback of `evaluate`: a bar with the time left, and nothing else.

    Args:
        shown: whether there is a bar; None for one in a terminal and in a notebook.
    """

    def __call__(self, event: str, cell: Cell | None, done: int, total: int, message: str) -> None:
        if cell is not None:
            self.update(name_of(cell), done, max(total, 1))


class TrainingReporter(_Bar):
    """The progress callback of a training."""

    def __init__(self) -> None:
        super().__init__()
        self.validation = ""

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.validation_srocc is not None:
            self.validation = f" · validation SROCC {progress.validation_srocc:.3f}"
        description = "looking at images" if math.isnan(progress.loss) else f"loss {progress.loss:.4f}{self.validation}"
        self.update(description, round(100 * progress.share), 100)
        left = progress.seconds * (1 - progress.share) / progress.share
        self.line(f"{progress.share:6.1%} · {description} · {left:.0f} s left at this pace", always=progress.share == 1)
