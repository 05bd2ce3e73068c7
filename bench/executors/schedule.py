"""Shared by the executors: the missing cells, their division into tasks, and the ledger of a run."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from iqarena.attacks.ensemble import Ensemble
from iqarena.bench.cells import Cell
from iqarena.bench.datasets import open_dataset
from iqarena.bench.errors import CannotRun
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.isolation import OutOfMemory
from iqarena.bench.registry import ATTACKS
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Batch

RETRIES = 1
"""Retries of a cell whose process was lost."""


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        done: number of cells that were run now.
        kept: number of cells that were finished before.
        skipped: (cell, reason) of invalid combinations.
        failed: (cell, status, first error) of cells whose status is not ok.
        changed: cells that were finished by another model of the same name and code, and are run anew.
        cell_ids: ids of all cells that have a record, in the order of the plan.
    """

    done: int = 0
    kept: int = 0
    skipped: list[tuple[Cell, str]] = field(default_factory=list)
    failed: list[tuple[Cell, str, str]] = field(default_factory=list)
    changed: list[Cell] = field(default_factory=list)
    cell_ids: list[str] = field(default_factory=list)

    def add(self, cell: Cell, record: dict[str, Any]) -> None:
        """Add a cell that was run now."""
        self.done += 1
        if record["status"] != "ok":
            self.failed.append((cell, record["status"], (record["errors"] or [""])[0]))


ProgressCallback = Callable[[str, Cell | None, int, int, str], None]
"""``report(event, cell, done, to_do, message)``; events are "plan", "start", "end"."""

Work = tuple[Cell, str]
"""A cell and its id."""

CellFiles = tuple[dict[str, Any], pd.DataFrame, list[torch.Tensor] | None]
"""The output of a cell: its record, its rows, and the attacked images if they are to be kept."""


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of a worker process: its evaluator and its limits.

    Attributes:
        dataset, root, limit, batch, engine: arguments of the evaluator.
        keep_images: whether attacked images are kept.
        threads: torch threads of a process.
        seconds: wall-clock limit per cell; None is no limit.
        memory: limit on a process's data in bytes; None is no limit.
        gpus: GPUs of a task on a Ray cluster; may be a fraction.
    """

    dataset: str
    root: Path | None
    limit: int | None
    batch: Batch
    engine: Engine = field(default_factory=Engine)
    keep_images: bool = False
    threads: int = 1
    seconds: float | None = None
    memory: int | None = None
    gpus: float = 0.0

    def evaluator(self) -> Evaluator:
        """Build a new evaluator.

        Raises:
            UserError: for errors that the caller can fix.
        """
        return Evaluator(
            open_dataset(self.dataset, self.root), self.limit, self.batch, engine=self.engine, memory=self.memory
        )


@dataclass(frozen=True)
class Task:
    """Cells that one process runs one after another.

    Attributes:
        work: the cells.
        losses: how often the process of the first cell was lost.
        halvings: how often the batch of the first cell is halved.
    """

    work: tuple[Work, ...]
    losses: int = 0
    halvings: int = 0


def tasks(to_do: list[Work]) -> list[Task]:
    """Divide the work into tasks; cells that share attacked images, or an ensemble and its members, stay together."""
    groups: dict[str, list[Work]] = {}
    group_of: dict[str, str] = {}
    for work in to_do:
        names = [work[0].crafting, *_members(work[0])]
        first, *merged = dict.fromkeys(group_of[name] for name in names if name in group_of) or [names[0]]
        for key in merged:  # an ensemble merges groups
            groups[first] += groups.pop(key)
            group_of |= {name: first for name, group in group_of.items() if group == key}
        group_of |= dict.fromkeys(names, first)
        groups.setdefault(first, []).append(work)
    order = {cell_id: index for index, (_, cell_id) in enumerate(to_do)}
    return [Task(tuple(sorted(group, key=lambda work: order[work[1]]))) for group in groups.values()]


def _members(cell: Cell) -> list[str]:
    """Return the crafting keys of an ensemble's members; empty for any other attack."""
    attack = ATTACKS.build(cell.attack)
    if not isinstance(attack, Ensemble):
        return []
    return [replace(cell, attack=member.name, objective=kind).crafting for member, kind in attack.members]


def missing(
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    fresh: bool = False,
    keep_images: bool = False,
    isolated: bool = False,
) -> tuple[Outcome, list[Work]]:
    """Return an outcome with the cells skipped and done before, and the cells that have to be run, in the order of the plan.

    Args:
        evaluator: evaluator of the cells' image set.
        cells: the planned cells.
        records: where finished cells are.
        fresh: whether finished cells count as missing too.
        keep_images: whether finished cells without stored images count as missing too.
        isolated: whether finished cells that were not run in isolation count as missing too.

    Raises:
        UserError: for unknown names and unusable weights.
    """
    outcome, to_do = Outcome(), []
    for cell in cells:
        try:
            cell_id = evaluator.ids.cell_id(cell)
        except CannotRun as reason:
            outcome.skipped.append((cell, str(reason)))
            continue
        outcome.cell_ids.append(cell_id)
        earlier = None if fresh else records.read(cell_id)
        if earlier is not None and isolated and not earlier["provenance"].get("isolated"):
            earlier = None
        if earlier is not None and not evaluator.same_models(cell, earlier):
            outcome.changed.append(cell)
            earlier = None
        if earlier is not None and earlier["status"] == "ok" and (earlier["attacked_images"] or not keep_images):
            outcome.kept += 1
        else:
            to_do.append((cell, cell_id))
    return outcome, to_do


class Ledger:
    """The waiting and the ended cells of a run; it retries the cells of lost processes or records them as failed."""

    def __init__(
        self, evaluator: Evaluator, records: Records, report: ProgressCallback, outcome: Outcome, to_do: list[Work]
    ) -> None:
        self.evaluator, self.records, self.report, self.outcome = evaluator, records, report, outcome
        self.cells = {cell_id: cell for cell, cell_id in to_do}
        self.waiting = deque(tasks(to_do))
        self.ended: set[str] = set()

    def start(self, cell_id: str) -> None:
        """Report that a cell was started."""
        self.report("start", self.cells[cell_id], len(self.ended), len(self.cells), "")

    def end(self, cell_id: str, record: dict[str, Any]) -> None:
        """Report that a cell has its record; each cell is counted once."""
        if cell_id not in self.ended:
            self.ended.add(cell_id)
            self.outcome.add(self.cells[cell_id], record)
            self.report("end", self.cells[cell_id], len(self.ended), len(self.cells), record["status"])

    def retry_or_fail(self, task: Task, reason: str, retries: int, halve: bool = True) -> None:
        """Requeue a task whose process was lost; its current cell is recorded as failed if it has no retries left.

        Args:
            task: the task.
            reason: error for the record.
            retries: how often a cell is retried.
            halve: whether the next try uses half the batch.
        """
        left = tuple(work for work in task.work if work[1] not in self.ended)
        if not left:
            return
        first = Task(left) if left[0] != task.work[0] else replace(task, work=left)
        if first.losses < retries:
            self.waiting.appendleft(replace(first, losses=first.losses + 1, halvings=first.halvings + halve))
            return
        (cell, cell_id), rest = left[0], left[1:]
        record, images = self.evaluator.failed(cell, cell_id, reason)
        self.records.write(record, images)
        self.end(cell_id, record)
        if rest:
            self.waiting.appendleft(Task(rest))

    def on_crash(self, task: Task, how: str, memory: bool) -> None:
        """Handle the crash of a task's process; `memory` says whether a lack of it may be the reason, as after SIGKILL."""
        self.retry_or_fail(task, f"its process died{how}{', out of memory perhaps' if memory else ''}", RETRIES)

    def on_out_of_memory(self, task: Task, message: str) -> None:
        """Handle a task that reported an out-of-memory error."""
        self.retry_or_fail(task, f"out of memory: {message}", RETRIES)

    def on_timeout(self, task: Task, limit: float) -> None:
        """Handle a task whose cell exceeded the time limit; there is no retry, since it would take as long again."""
        self.retry_or_fail(task, f"it took longer than the time limit of {limit:g} s", retries=0)


def _counts(outcome: Outcome) -> str:
    changed = f", {len(outcome.changed)} of another model than before" if outcome.changed else ""
    return f"{outcome.kept} done before, {len(outcome.skipped)} skipped{changed}"


@contextmanager
def open_ledger(
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    report: ProgressCallback,
    fresh: bool = False,
    keep_images: bool = False,
    isolated: bool = False,
) -> Iterator[Ledger]:
    """Open the ledger of the missing cells and lock the results folder; on exit its summary is rebuilt.

    Raises:
        UserError: for unknown names (before any work), a results folder that another run writes to, a full disk.
    """
    outcome, to_do = missing(evaluator, cells, records, fresh, keep_images, isolated)
    with records.writing():
        if keep_images:
            ids = [sample.image_id for sample in evaluator.samples]
            records.kept_images.keep_originals(evaluator.dataset.fingerprint, zip(ids, evaluator.images, strict=True))
        report("plan", None, 0, len(to_do), _counts(outcome))
        yield Ledger(evaluator, records, report, outcome, to_do)


def run_cell(evaluator: Evaluator, cell: Cell, cell_id: str, halvings: int, keep_images: bool) -> CellFiles:
    """Run a cell.

    Raises:
        OutOfMemory: where a smaller batch, or a separate process, may help.
    """
    record, images = evaluator.run(cell, cell_id, halvings)
    attacked = list(evaluator.attacked.crafted(cell).pixels) if keep_images and record["status"] != "failed" else None
    return record, images, attacked


def run_cell_with_retry(evaluator: Evaluator, cell: Cell, cell_id: str, keep_images: bool) -> CellFiles:
    """Run a cell in this process; retry once with half the batch if it runs out of memory."""
    try:
        return run_cell(evaluator, cell, cell_id, 0, keep_images)
    except OutOfMemory:
        pass  # retried outside of the except clause, since the traceback keeps tensors alive
    try:
        return run_cell(evaluator, cell, cell_id, 1, keep_images)
    except OutOfMemory as error:
        return *evaluator.failed(cell, cell_id, str(error)), None


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
