"""What a person sees of long work: a bar with the time left on a terminal, plain lines elsewhere."""

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
    """A cell in a line."""
    return f"{cell.defended} · {cell.attack} · {cell.objective} · {cell.setting} · {cell.norm} {cell.eps:.4g}"


class _Bar:
    """A rich progress bar on a terminal; where output is piped, `line` prints at most every ten seconds."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.plain = not self.console.is_terminal
        columns = [
            TextColumn("{task.description}", markup=False),  # the brackets of a spec are none
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

    def update(self, words: str, done: float, total: float) -> None:
        """Show how far it is."""
        if self.task is None:
            self.task = self.progress.add_task(words, total=total)
        self.progress.update(self.task, description=words, completed=done, total=total)

    def line(self, words: str, *, always: bool = False) -> None:
        """A plain line, if output is piped."""
        if self.plain and (always or time.monotonic() - self.last > _PLAIN_EVERY):
            print(words, flush=True)
            self.last = time.monotonic()


class Reporter(_Bar):
    """Progress of a run; called with the events of an executor."""

    def __call__(self, event: str, cell: Cell | None, done: int, total: int, words: str) -> None:
        if event == "plan":
            self.line(f"{total} cells to run, {words}", always=True)
        if cell is None:
            return
        self.update(name_of(cell), done, max(total, 1))
        if event == "end":
            left = (time.monotonic() - self.started) / done * (total - done)
            self.line(
                f"{done}/{total} cells, {left:.0f} s left · {name_of(cell)} · {words}", always=words != "ok" or done == total
            )

    def summary(self, outcome: Outcome, out: Path) -> None:
        """The last words of a run."""
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


class TrainingReporter(_Bar):
    """Progress of a training."""

    def __init__(self) -> None:
        super().__init__()
        self.validation = ""

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.validation_srocc is not None:
            self.validation = f" · validation SROCC {progress.validation_srocc:.3f}"
        words = "looking at images" if math.isnan(progress.loss) else f"loss {progress.loss:.4f}{self.validation}"
        self.update(words, round(100 * progress.share), 100)
        left = progress.seconds * (1 - progress.share) / progress.share
        self.line(f"{progress.share:6.1%} · {words} · {left:.0f} s left at this pace", always=progress.share == 1)
