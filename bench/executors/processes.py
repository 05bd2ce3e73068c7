"""Runs the cells that are missing in several processes, of which each may die without taking the run with it.

Cells that share attacked images go to one process together. A process writes each record itself, so whatever happens
to it, what it had finished is there. The cell during which it died, or ran out of memory, is tried once more in a new
process with half the batch, and then recorded as failed. One that takes too long is recorded at once.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from iqarena.bench.cells import Cell
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors.schedule import Ledger, Outcome, ProgressCallback, Task, WorkerSettings, planned
from iqarena.bench.executors.worker import serve
from iqarena.bench.results.store import Records

_PATIENCE = 0.2
"""Seconds between looks at clocks and at processes that do not speak."""


def run(
    scene: WorkerSettings,
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    report: ProgressCallback,
    workers: int,
    fresh: bool = False,
) -> Outcome:
    """Run what is missing and rebuild the summary.

    Args:
        scene: of which `evaluator` was made.
        evaluator: of the cells' image set.
        cells: the plan.
        records: where finished cells go.
        report: told of progress.
        workers: processes.
        fresh: run finished cells again too.

    Raises:
        UserError: for unknown names (before any work), a folder that another run writes to, a disk that takes no more.
    """
    with planned(evaluator, cells, records, report, fresh, scene.keep_images) as book:
        _WorkerPool(scene, book).go(workers)
    return book.outcome


class _Worker:
    """A process, what it does, and since when."""

    def __init__(self, scene: WorkerSettings, book: Ledger) -> None:
        context = _context()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, scene, book.records.folder))
        self.process.start()
        theirs.close()
        self.scene = scene
        self.task: Task | None = None
        self.since = math.inf  # its cell began, by the clock here; setting up is not counted
        self.gone = False

    def give(self, task: Task) -> None:
        """Let it run a task; one that is dead is noticed later."""
        self.task, self.since = task, math.inf
        with suppress(OSError):
            self.pipe.send(task)

    def said(self) -> Iterator[tuple[Any, ...]]:
        """What it has said since the last time."""
        alive = self.process.is_alive()  # before listening: the dead say no more than what is heard now
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            alive = False
        self.gone = not alive

    def kill(self) -> None:
        """End it and all that it started."""
        if self.process.pid:
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _WorkerPool:
    """The processes of a run."""

    def __init__(self, scene: WorkerSettings, book: Ledger) -> None:
        self.scene, self.book = scene, book
        self.workers: list[_Worker] = []

    def go(self, count: int) -> None:
        """Until every cell has its record."""
        try:
            while self.book.waiting or any(worker.task for worker in self.workers):
                while self.book.waiting and (free := self._free(count)):
                    free.give(self.book.waiting.popleft())
                busy = [worker for worker in self.workers if worker.task]
                wait([worker.pipe for worker in busy], timeout=_PATIENCE)
                for worker in busy:
                    self._attend(worker)
        finally:
            for worker in self.workers:
                worker.kill()

    def _free(self, count: int) -> _Worker | None:
        for worker in self.workers:
            if worker.task is None:
                return worker
        if len(self.workers) == count:
            return None
        taken = {worker.scene.engine.device for worker in self.workers}
        devices = self.scene.engine.devices()  # a GPU each, by turns
        device = next((d for d in devices if d not in taken), devices[len(self.workers) % len(devices)])
        self.workers.append(_Worker(replace(self.scene, engine=replace(self.scene.engine, device=device)), self.book))
        return self.workers[-1]

    def _attend(self, worker: _Worker) -> None:
        """Hear what a process has to say, and whether it is alive and in time."""
        short: str | None = None
        for what, *rest in worker.said():
            if what == "start":
                worker.since = time.monotonic()
                self.book.start(rest[0])
            elif what == "end":
                self.book.end(*rest)
            elif what == "free":
                worker.task = None
            elif what == "memory":
                short = rest[0]
            else:  # a disk that takes no more, or a fault of ours
                raise rest[0]
        task, limit = worker.task, self.scene.seconds
        if task is None:
            return
        if short is not None:
            self._dismiss(worker)
            self.book.short(task, short)
        elif worker.gone:
            self._dismiss(worker)
            self.book.died(task, _how(worker.process.exitcode))
        elif limit is not None and time.monotonic() - worker.since > limit:
            self._dismiss(worker)
            self.book.late(task, limit)

    def _dismiss(self, worker: _Worker) -> None:
        worker.kill()
        self.workers.remove(worker)


@functools.cache
def _context() -> SpawnContext | ForkServerContext:
    """New processes without what this one has loaded: forked from a clean one that has imported torch, where that works."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([serve.__module__])
    return context


def _how(code: int | None) -> str:
    """A process ended, in brackets."""
    return "" if code is None else f" (signal {-code})" if code < 0 else f" (exit status {code})"
