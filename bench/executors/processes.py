"""Runs the cells that are missing in several processes, of which each may die without taking the run with it.

Cells that share attacked pictures go to one process together. A process writes each record itself, so whatever happens
to it, what it had finished is there. The cell during which it died is tried once more with half the batch, and then
recorded as failed.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import sys
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import pebble
import torch

from attacks.ensemble import Ensemble
from bench.arena import Arena
from bench.datasets import open_dataset
from bench.executors.base import Outcome, Report, Work, missing
from bench.plan import Cell
from bench.records import Records
from bench.registry import ATTACKS

Events = SimpleQueue[tuple[str, str, str, float]]
"""(event, cell id, status, when); events are "start" and "end", when is `time.monotonic` of the process that tells it."""

_PATIENCE = 0.2  # seconds between looks at what the processes say


@dataclass(frozen=True)
class Scene:
    """What a process needs to set up its arena, and what it is allowed.

    Attributes:
        dataset, root, limit, batch: of the arena.
        threads: torch threads of a process.
        seconds: wall time a cell; None is no limit.
        memory: bytes of a process's data; None is no limit.
        gpus: of a task on a Ray cluster; may be a share of one.
    """

    dataset: str
    root: Path | None
    limit: int | None
    batch: int
    threads: int = 1
    seconds: float | None = None
    memory: int | None = None
    gpus: float = 0.0


@dataclass(frozen=True)
class Task:
    """Cells that are run by one process, one after the other."""

    work: tuple[Work, ...]
    halved: bool = False


def tasks(to_do: list[Work]) -> list[Task]:
    """The work in pieces that share nothing: attacked pictures, or an ensemble's members, stay together."""
    groups: dict[str, list[Work]] = {}
    owner: dict[str, str] = {}
    for work in to_do:
        names = [work[0].crafting, *_members(work[0])]
        home = next((owner[name] for name in names if name in owner), names[0])
        for name in names:
            other = owner.get(name, home)
            if other != home:  # an ensemble brings two groups together
                groups[home] += groups.pop(other)
                owner = {key: home if value == other else value for key, value in owner.items()}
            owner[name] = home
        groups.setdefault(home, []).append(work)
    order = {cell_id: place for place, (_, cell_id) in enumerate(to_do)}
    return [Task(tuple(sorted(group, key=lambda work: order[work[1]]))) for group in groups.values()]


def _members(cell: Cell) -> list[str]:
    attack = ATTACKS.build(cell.attack)
    if not isinstance(attack, Ensemble):
        return []
    return [replace(cell, attack=member.name, objective=kind).crafting for member, kind in attack.members]


def run(
    scene: Scene, arena: Arena, cells: list[Cell], records: Records, report: Report, workers: int, fresh: bool = False
) -> Outcome:
    """Run what is missing and rebuild the summary.

    Args:
        scene: of which `arena` was made.
        arena: of the cells' image set.
        cells: the plan.
        records: where finished cells go.
        report: told of progress.
        workers: processes.
        fresh: run finished cells again too.

    Raises:
        UserError: for unknown names (before any work), a folder that another run writes to, a disk that takes no more.
    """
    outcome, to_do = missing(arena, cells, records, fresh)
    with records.writing():
        report("plan", None, 0, len(to_do), f"{outcome.kept} done before, {len(outcome.skipped)} skipped")
        if to_do:
            _Run(scene, arena, records, report, outcome, to_do).go(workers)
    return outcome


class _Run:
    """One run's processes and what they have told."""

    def __init__(
        self, scene: Scene, arena: Arena, records: Records, report: Report, outcome: Outcome, to_do: list[Work]
    ) -> None:
        self.scene, self.arena, self.records, self.report, self.outcome = scene, arena, records, report, outcome
        self.cells = {cell_id: cell for cell, cell_id in to_do}
        self.started: dict[str, float] = {}
        self.ended: set[str] = set()
        context = multiprocessing.get_context("spawn")
        self.events: Events = context.SimpleQueue()
        self.context = context

    def go(self, workers: int) -> None:
        """Until every cell has its record."""
        pool = pebble.ProcessPool(
            workers, context=self.context, initializer=_enter, initargs=(self.scene, self.records.folder, self.events)
        )
        waiting = deque(tasks([(cell, cell_id) for cell_id, cell in self.cells.items()]))
        running: dict[Any, Task] = {}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    task = waiting.popleft()
                    running[pool.schedule(_work, args=(task,))] = task
                done, _ = wait(running, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
                self.listen()
                for future in done:
                    task = running.pop(future)
                    error = future.exception()
                    if error is not None:
                        waiting.extendleft(reversed(self.after_death(task, error)))
        finally:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()

    def listen(self) -> None:
        """Pass on what the processes say."""
        while not self.events.empty():
            event, cell_id, status, when = self.events.get()
            if event == "start":
                self.started[cell_id] = when  # one clock for all processes; here it may be heard of late
            elif cell_id not in self.ended:
                self.end(cell_id)
            self.report(event, self.cells[cell_id], len(self.ended), len(self.cells), status)

    def end(self, cell_id: str) -> None:
        """Count a cell that has its record."""
        self.ended.add(cell_id)
        record = self.records.read(cell_id)
        if record is not None:
            self.outcome.add(self.cells[cell_id], record)

    def after_death(self, task: Task, error: BaseException) -> list[Task]:
        """What is still to be done of a task whose process died; a cell that has had its second chance gets its record."""
        if not isinstance(error, pebble.ProcessExpired):
            raise error  # a disk that takes no more, or a fault of ours
        left = [work for work in task.work if work[1] not in self.ended]
        if not left:
            return []
        culprit, rest = left[0], tuple(left[1:])
        reason = self._reason(culprit[1], error)
        again = [Task(rest)] if rest else []
        if not task.halved and self.scene.batch > 1 and "time" not in reason:
            return [Task((culprit,), halved=True), *again]
        self.records.write(*self.arena.failed(*culprit, reason))
        self.end(culprit[1])
        self.report("end", culprit[0], len(self.ended), len(self.cells), "failed")
        return again

    def _reason(self, cell_id: str, error: pebble.ProcessExpired) -> str:
        limit = self.scene.seconds
        if limit is not None and time.monotonic() - self.started.get(cell_id, time.monotonic()) >= limit:
            return f"it took longer than the time limit of {limit:g} s"
        code = error.exitcode
        return f"its process died ({f'signal {-code}' if code < 0 else f'exit status {code}'}), out of memory perhaps"


# --- in a process

_HERE: dict[str, Any] = {}
"""What `_enter` leaves for `_work`."""


def _enter(scene: Scene, folder: Path, events: Events) -> None:
    torch.set_num_threads(scene.threads)
    if scene.memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (scene.memory, scene.memory))
    _HERE.update(scene=scene, records=Records(folder), events=events, arenas={})


def _work(task: Task) -> None:
    scene: Scene = _HERE["scene"]
    batch = max(scene.batch // 2, 1) if task.halved else scene.batch
    if batch not in _HERE["arenas"]:
        _HERE["arenas"][batch] = Arena(open_dataset(scene.dataset, scene.root), scene.limit, batch)
    arena: Arena = _HERE["arenas"][batch]
    for cell, cell_id in task.work:
        _HERE["events"].put(("start", cell_id, "", time.monotonic()))
        if scene.seconds is not None:
            # C's clock and no Python: it ends a process that hangs in a library too
            faulthandler.dump_traceback_later(scene.seconds, exit=True, file=_nowhere())
        record, images = arena.run(cell, cell_id)
        faulthandler.cancel_dump_traceback_later()
        _HERE["records"].write(record, images)
        _HERE["events"].put(("end", cell_id, record["status"], time.monotonic()))


def _nowhere() -> Any:
    if "nowhere" not in _HERE:
        _HERE["nowhere"] = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    return _HERE["nowhere"]


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
