"""Runs the cells that are missing on a Ray cluster; the same tasks as `iqarena.bench.executors.processes`, on other machines too.

Records travel back as each cell ends and are written here, so the machines of the cluster need no folder in common; they
need this project installed, and the data set under the same path. What a lost machine had not finished is run anew.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from iqarena.bench.cells import Cell
from iqarena.bench.errors import UserError, describe
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors.schedule import (
    Ledger,
    Outcome,
    ProgressCallback,
    Task,
    WorkerSettings,
    make,
    planned,
    usable_cores,
)
from iqarena.bench.executors.worker import limit_memory
from iqarena.bench.inference.isolation import OutOfMemory
from iqarena.bench.process import keep_freed_memory, use_threads
from iqarena.bench.results.store import Records

_MACHINES = 3
"""How often a cell that lost its machine is tried again."""

_PATIENCE = 0.5
"""Seconds between looks at clocks."""


def run(
    scene: WorkerSettings,
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    report: ProgressCallback,
    workers: int | None,
    address: str | None = None,
    fresh: bool = False,
) -> Outcome:
    """Run what is missing and rebuild the summary.

    Args:
        scene: of which `evaluator` was made.
        evaluator: of the cells' image set.
        cells: the plan.
        records: where finished cells go.
        report: told of progress.
        workers: tasks at once, and what the local cluster has room for that is started without an address; None is a task a
            core, of this machine or of the cluster.
        address: of a cluster that is running; None starts one here and ends it.
        fresh: run finished cells again too.

    Raises:
        UserError: where Ray is not installed, the cluster does not answer or has no room for a task, for unknown names
            (before any work), a folder that another run writes to, a disk that takes no more.
    """
    try:
        import ray
    except ImportError:
        raise UserError('the executor ray needs the extra: pip install "iqarena[ray]"') from None
    with planned(evaluator, cells, records, report, fresh, scene.keep_images) as book:
        if book.waiting:
            _connect(ray, address, None if address else (workers or usable_cores()) * scene.threads)
            try:
                most = room(ray, scene)
                _Cluster(ray, scene, book).go(workers or most)
            finally:
                ray.shutdown()
    return book.outcome


def _connect(ray: Any, address: str | None, cores: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what runs here is nobody's business
    terminated = signal.getsignal(signal.SIGTERM)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        # "local": without an address Ray joins whatever cluster it finds
        ray.init(address=address or "local", num_cpus=cores, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        which = f"no Ray cluster at {address}" if address else "no Ray cluster could be started here"
        raise UserError(f"{which}: {' '.join(str(error).split())[:200]}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # Ray takes it


def room(ray: Any, scene: WorkerSettings) -> int:
    """How many tasks the machines of a cluster take at once.

    Raises:
        UserError: where none takes a single one; Ray would wait for such a machine without end.
    """
    wanted = {"CPU": scene.threads, "GPU": scene.gpus, "memory": scene.memory or 0}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    tasks = sum(min(int(has.get(name, 0) // amount) for name, amount in wanted.items() if amount) for has in machines)
    if not tasks:
        words = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
        raise UserError(f"no machine of the Ray cluster has what a task takes: {words}; see `ray status`")
    return tasks


class _Cluster:
    """The tasks of a run on a cluster: for each, the stream of what it says, and since when its cell runs."""

    def __init__(self, ray: Any, scene: WorkerSettings, book: Ledger) -> None:
        self.ray, self.scene, self.book = ray, scene, book
        self.running: dict[Any, Task] = {}
        self.since: dict[Any, float] = {}
        self.remote = ray.remote(_work).options(
            num_returns="streaming", num_cpus=scene.threads, num_gpus=scene.gpus, max_retries=0, memory=scene.memory
        )

    def go(self, workers: int) -> None:
        """Until every cell has its record."""
        limit = self.scene.seconds
        while self.book.waiting or self.running:
            while self.book.waiting and len(self.running) < workers:
                task = self.book.waiting.popleft()
                stream = self.remote.remote(self.scene, task)
                self.running[stream], self.since[stream] = task, math.inf
            ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=_PATIENCE, fetch_local=False)
            for stream in ready:
                self._hear(stream)
            if limit is not None:
                for stream in [s for s in self.running if time.monotonic() - self.since[s] > limit]:
                    self.ray.cancel(stream, force=True)
                    self.book.late(self._off(stream), limit)

    def _hear(self, stream: Any) -> None:
        """The next thing that a task says, or why it says no more."""
        errors = self.ray.exceptions
        try:
            what, *rest = self.ray.get(next(stream))
        except StopIteration:
            self._off(stream)
        except errors.RayTaskError as error:  # a fault of ours, or the user's: what plugins do wrong is in their records
            raise error.cause from None
        except (errors.WorkerCrashedError, errors.OutOfMemoryError):
            self.book.died(self._off(stream))
        except errors.RayError as error:
            self.book.lost(self._off(stream), f"its machine was lost ({type(error).__name__})", _MACHINES, halve=False)
        else:
            if what == "start":
                self.since[stream] = time.monotonic()
                self.book.start(rest[0])
            elif what == "end":
                self.since[stream] = math.inf
                record, images, attacked = rest[0]
                self.book.records.write(record, images, attacked)
                self.book.end(record["cell_id"], record)
            else:
                self.book.short(self._off(stream), rest[0])

    def _off(self, stream: Any) -> Task:
        del self.since[stream]
        return self.running.pop(stream)


# --- on the cluster

_ARENAS: dict[WorkerSettings, Evaluator] = {}
"""Of this process."""


def _work(scene: WorkerSettings, task: Task) -> Iterator[tuple[Any, ...]]:
    use_threads(scene.threads)
    keep_freed_memory()
    limit_memory(scene)
    try:
        if scene not in _ARENAS:
            scene.engine.checked()
            _ARENAS[scene] = scene.evaluator()
        for place, (cell, cell_id) in enumerate(task.work):
            yield ("start", cell_id)
            yield ("end", make(_ARENAS[scene], cell, cell_id, task.halvings if place == 0 else 0, scene.keep_images))
    except OutOfMemory as error:
        _ARENAS.clear()
        yield ("memory", str(error))
    except MemoryError as error:
        _ARENAS.clear()
        yield ("memory", describe(error))
