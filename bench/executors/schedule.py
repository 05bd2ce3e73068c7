"""What the executors share: what is to be done, in which pieces, and what was done."""

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

CHANCES = 1
"""How often a cell that lost its process is tried again."""


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        done: cells that were run now.
        kept: cells that were finished before.
        skipped: (cell, reason) of cells that make no sense.
        failed: (cell, status, first error) of cells that did not end ok.
        cell_ids: of all cells that have a record, in the order of the plan.
    """

    done: int = 0
    kept: int = 0
    skipped: list[tuple[Cell, str]] = field(default_factory=list)
    failed: list[tuple[Cell, str, str]] = field(default_factory=list)
    cell_ids: list[str] = field(default_factory=list)

    def add(self, cell: Cell, record: dict[str, Any]) -> None:
        """Count a cell that was run now."""
        self.done += 1
        if record["status"] != "ok":
            self.failed.append((cell, record["status"], (record["errors"] or [""])[0]))


ProgressCallback = Callable[[str, Cell | None, int, int, str], None]
"""``report(event, cell, done, to_do, words)``; events are "plan", "start", "end"."""

Work = tuple[Cell, str]
"""A cell and its id."""

Made = tuple[dict[str, Any], pd.DataFrame, list[torch.Tensor] | None]
"""What a cell leaves: record, rows, and the attacked images if they are to be kept."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a process needs to set up its evaluator, and what it is allowed.

    Attributes:
        dataset, root, limit, batch, engine: of the evaluator.
        keep_images: whether attacked images are kept.
        threads: torch threads of a process.
        seconds: wall time a cell; None is no limit.
        memory: bytes of a process's data; None is no limit.
        gpus: of a task on a Ray cluster; may be a share of one.
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
        """A new one.

        Raises:
            UserError: for anything that the caller can mend.
        """
        return Evaluator(
            open_dataset(self.dataset, self.root), self.limit, self.batch, engine=self.engine, memory=self.memory
        )


@dataclass(frozen=True)
class Task:
    """Cells that are run by one process, one after the other.

    Attributes:
        work: the cells.
        losses: how often the first of them lost its process.
        halvings: of its batches.
    """

    work: tuple[Work, ...]
    losses: int = 0
    halvings: int = 0


def tasks(to_do: list[Work]) -> list[Task]:
    """The work in pieces that share nothing: attacked images, or an ensemble's members, stay together."""
    groups: dict[str, list[Work]] = {}
    owner: dict[str, str] = {}
    for work in to_do:
        names = [work[0].crafting, *_members(work[0])]
        homes = list(dict.fromkeys(owner[name] for name in names if name in owner)) or [names[0]]
        for other in homes[1:]:  # an ensemble brings groups together
            groups[homes[0]] += groups.pop(other)
            owner |= {name: homes[0] for name, home in owner.items() if home == other}
        owner |= dict.fromkeys(names, homes[0])
        groups.setdefault(homes[0], []).append(work)
    order = {cell_id: place for place, (_, cell_id) in enumerate(to_do)}
    return [Task(tuple(sorted(group, key=lambda work: order[work[1]]))) for group in groups.values()]


def _members(cell: Cell) -> list[str]:
    attack = ATTACKS.build(cell.attack)
    if not isinstance(attack, Ensemble):
        return []
    return [replace(cell, attack=member.name, objective=kind).crafting for member, kind in attack.members]


def missing(
    evaluator: Evaluator, cells: list[Cell], records: Records, fresh: bool = False, keep_images: bool = False
) -> tuple[Outcome, list[Work]]:
    """What has to be run, in the order of the plan; the outcome holds what is skipped and what was done before.

    Args:
        evaluator: of the cells' image set.
        cells: the plan.
        records: where finished cells are.
        fresh: finished cells count as missing too.
        keep_images: finished cells whose images were not kept count as missing too.

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
        if earlier is not None and earlier["status"] == "ok" and (earlier["attacked_images"] or not keep_images):
            outcome.kept += 1
        else:
            to_do.append((cell, cell_id))
    return outcome, to_do


class Ledger:
    """What an executor has to do and what it has done; it writes what the cells of lost processes leave."""

    def __init__(
        self, evaluator: Evaluator, records: Records, report: ProgressCallback, outcome: Outcome, to_do: list[Work]
    ) -> None:
        self.evaluator, self.records, self.report, self.outcome = evaluator, records, report, outcome
        self.cells = {cell_id: cell for cell, cell_id in to_do}
        self.waiting = deque(tasks(to_do))
        self.ended: set[str] = set()

    def start(self, cell_id: str) -> None:
        """A cell was begun."""
        self.report("start", self.cells[cell_id], len(self.ended), len(self.cells), "")

    def end(self, cell_id: str, record: dict[str, Any]) -> None:
        """A cell has its record."""
        if cell_id not in self.ended:
            self.ended.add(cell_id)
            self.outcome.add(self.cells[cell_id], record)
            self.report("end", self.cells[cell_id], len(self.ended), len(self.cells), record["status"])

    def lost(self, task: Task, reason: str, chances: int, halve: bool = True) -> None:
        """A task lost its process: the cell that ran is tried again, or recorded as failed if it has had its chances.

        Args:
            task: which.
            reason: for the record.
            chances: how often a cell is tried again.
            halve: whether the next try gets half the batch.
        """
        left = tuple(work for work in task.work if work[1] not in self.ended)
        if not left:
            return
        first = Task(left) if left[0] != task.work[0] else replace(task, work=left)
        if first.losses < chances:
            self.waiting.appendleft(replace(first, losses=first.losses + 1, halvings=first.halvings + halve))
            return
        (cell, cell_id), rest = left[0], left[1:]
        record, images = self.evaluator.failed(cell, cell_id, reason)
        self.records.write(record, images)
        self.end(cell_id, record)
        if rest:
            self.waiting.appendleft(Task(rest))

    def died(self, task: Task, how: str = "") -> None:
        """Its process ended, and not by itself."""
        self.lost(task, f"its process died{how}, out of memory perhaps", CHANCES)

    def short(self, task: Task, words: str) -> None:
        """It ran out of memory, and has said so."""
        self.lost(task, f"out of memory: {words}", CHANCES)

    def late(self, task: Task, limit: float) -> None:
        """Its cell took more seconds than it may, as it would again."""
        self.lost(task, f"it took longer than the time limit of {limit:g} s", chances=0)


@contextmanager
def planned(
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    report: ProgressCallback,
    fresh: bool = False,
    keep_images: bool = False,
) -> Iterator[Ledger]:
    """The missing cells of a plan, with the results folder locked as long as the context lasts; then its summary is rebuilt.

    Raises:
        UserError: for unknown names (before any work), a folder that another run writes to, a disk that takes no more.
    """
    outcome, to_do = missing(evaluator, cells, records, fresh, keep_images)
    with records.writing():
        if keep_images:
            ids = [sample.image_id for sample in evaluator.samples]
            records.keep_originals(evaluator.dataset.fingerprint, zip(ids, evaluator.images, strict=True))
        report("plan", None, 0, len(to_do), f"{outcome.kept} done before, {len(outcome.skipped)} skipped")
        yield Ledger(evaluator, records, report, outcome, to_do)


def make(evaluator: Evaluator, cell: Cell, cell_id: str, halvings: int, keep_images: bool) -> Made:
    """Run a cell.

    Raises:
        OutOfMemory: where a smaller batch may help, or a process of its own.
    """
    record, images = evaluator.run(cell, cell_id, halvings)
    attacked = list(evaluator.attacked.crafted(cell).pixels) if keep_images and record["status"] != "failed" else None
    return record, images, attacked


def make_here(evaluator: Evaluator, cell: Cell, cell_id: str, keep_images: bool) -> Made:
    """Run a cell in this process, and once more with half the batch if memory is short."""
    try:
        return make(evaluator, cell, cell_id, 0, keep_images)
    except OutOfMemory:
        pass  # outside of the except clause: what its traceback holds has to go first
    try:
        return make(evaluator, cell, cell_id, 1, keep_images)
    except OutOfMemory as error:
        return *evaluator.failed(cell, cell_id, str(error)), None


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
