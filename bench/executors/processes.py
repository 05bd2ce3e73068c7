"""Run the missing cells in several worker processes; a crash of one does not stop the run.

Cells that share attacked images go to the same process. Each process writes its records itself, so finished cells
survive a crash. The cell during which a process crashed or ran out of memory is retried once in a new process with half
the batch, and then recorded as failed. A cell that exceeds the time limit is recorded as failed at once.
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
from iqarena.bench.executors.schedule import Ledger, Outcome, ProgressCallback, Task, WorkerSettings, open_ledger
from iqarena.bench.executors.worker import serve
from iqarena.bench.inference.isolation import go_to, working_folder
from iqarena.bench.results.store import Records

_PATIENCE = 0.2
"""Seconds between checks of the time limit and of processes that send nothing."""


def run(
    settings: WorkerSettings,
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    report: ProgressCallback,
    workers: int,
    fresh: bool = False,
) -> Outcome:
    """Run the missing cells and rebuild the summary.

    Args:
        settings: the settings that `evaluator` was built from.
        evaluator: evaluator of the cells' image set.
        cells: the planned cells.
        records: where finished cells go.
        report: callback for progress events.
        workers: number of processes.
        fresh: run finished cells again too.

    Raises:
        UserError: for unknown names (before any work), a results folder that another run writes to, a full disk.
    """
    with open_ledger(evaluator, cells, records, report, fresh, settings.keep_images) as ledger:
        _WorkerPool(settings, ledger).run_all(workers)
    return ledger.outcome


class _Worker:
    """A worker process with its current task and the start time of its current cell."""

    def __init__(self, settings: WorkerSettings, ledger: Ledger) -> None:
        context = new_context()
        self.pipe, child_end = context.Pipe()
        self.process = context.Process(target=serve, args=(child_end, settings, ledger.records.folder))
        self.process.start()
        child_end.close()
        self.settings = settings
        self.task: Task | None = None
        self.cell_started = math.inf  # on this process's clock; the setup of the worker does not count
        self.dead = False

    def assign(self, task: Task) -> None:
        """Send the worker a task; a dead worker is noticed later."""
        self.task, self.cell_started = task, math.inf
        with suppress(OSError):
            self.pipe.send(task)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Yield the messages since the last call."""
        alive = self.process.is_alive()  # asked before reading: a dead process sends no more than what is read now
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            alive = False
        self.dead = not alive

    def kill(self) -> None:
        """Kill the process and everything that it started."""
        if self.process.pid:
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _WorkerPool:
    """The worker processes of a run."""

    def __init__(self, settings: WorkerSettings, ledger: Ledger) -> None:
        self.settings, self.ledger = settings, ledger
        self.workers: list[_Worker] = []
        self.folder = working_folder()

    def run_all(self, count: int) -> None:
        """Run with at most `count` processes until every cell has a record."""
        try:
            while self.ledger.waiting or any(worker.task for worker in self.workers):
                while self.ledger.waiting and (idle := self._idle_worker(count)):
                    idle.assign(self.ledger.waiting.popleft())
                busy = [worker for worker in self.workers if worker.task]
                wait([worker.pipe for worker in busy], timeout=_PATIENCE)
                for worker in busy:
                    self._handle_messages(worker)
        finally:
            for worker in self.workers:
                worker.kill()
            self.keep_folder()

    def keep_folder(self) -> None:
        """Make the working folder again, if a plugin in another process has removed it."""
        if self.folder is not None and working_folder() is None:
            go_to(self.folder)

    def _idle_worker(self, count: int) -> _Worker | None:
        """Return a worker without a task, a new one if fewer than `count` exist; None if all are busy."""
        for worker in self.workers:
            if worker.task is None:
                return worker
        if len(self.workers) == count:
            return None
        taken = {worker.settings.engine.device for worker in self.workers}
        devices = self.settings.engine.devices()  # one GPU per worker, in turn
        device = next((d for d in devices if d not in taken), devices[len(self.workers) % len(devices)])
        self.keep_folder()
        settings = replace(self.settings, engine=replace(self.settings.engine, device=device))
        self.workers.append(_Worker(settings, self.ledger))
        return self.workers[-1]

    def _handle_messages(self, worker: _Worker) -> None:
        """Handle the messages of a worker, then a crash or a timeout."""
        out_of_memory: str | None = None
        for what, *rest in worker.messages():
            if what == "start":
                worker.cell_started = time.monotonic()
                self.ledger.start(rest[0])
            elif what == "end":
                self.ledger.end(*rest)
            elif what == "free":
                worker.task = None
            elif what == "memory":
                out_of_memory = rest[0]
            else:  # a full disk, or a bug in the harness
                raise rest[0]
        task, limit = worker.task, self.settings.seconds
        if task is None:
            return
        if out_of_memory is not None:
            self._remove(worker)
            self.ledger.on_out_of_memory(task, out_of_memory)
        elif worker.dead:
            self._remove(worker)
            code = worker.process.exitcode
            self.ledger.on_crash(task, exit_reason(code), memory=code == -signal.SIGKILL)
        elif limit is not None and time.monotonic() - worker.cell_started > limit:
            self._remove(worker)
            self.ledger.on_timeout(task, limit)

    def _remove(self, worker: _Worker) -> None:
        worker.kill()
        self.workers.remove(worker)


@functools.cache
def new_context() -> SpawnContext | ForkServerContext:
    """Return the context for new processes: forked from a clean server that has imported torch, or spawned."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([serve.__module__])
    return context


def exit_reason(code: int | None) -> str:
    """Describe the exit code of a process in parentheses."""
    return "" if code is None else f" (signal {-code})" if code < 0 else f" (exit status {code})"
