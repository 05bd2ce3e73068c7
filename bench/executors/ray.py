"""Run the missing cells on a Ray cluster: the tasks of `iqarena.bench.executors.processes`, on other machines too.

Each record is sent back when its cell ends and is written here, so the machines of the cluster need no shared folder; they
need this project installed, and the data set under the same path. Unfinished cells of a lost machine are run again.
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
    open_ledger,
    run_cell,
    usable_cores,
)
from iqarena.bench.executors.worker import apply_settings
from iqarena.bench.inference.isolation import OutOfMemory
from iqarena.bench.results.store import Records

_RETRIES_AFTER_NODE_LOSS = 3
"""Retries of a cell whose machine was lost."""

_PATIENCE = 0.5
"""Seconds between checks of the time limit."""


def run(
    settings: WorkerSettings,
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    report: ProgressCallback,
    workers: int | None,
    address: str | None = None,
    fresh: bool = False,
) -> Outcome:
    """Run the missing cells and rebuild the summary.

    Args:
        settings: the settings that `evaluator` was built from.
        evaluator: evaluator of the cells' image set.
        cells: the planned cells.
        records: where finished cells go.
        report: callback for progress events.
        workers: number of concurrent tasks, and the capacity of a local cluster that is started without an address; None
            is one task per core, of this machine or of the cluster.
        address: address of a running cluster; None starts a local one and shuts it down at the end.
        fresh: run finished cells again too.

    Raises:
        UserError: where Ray is not installed, the cluster does not answer or has no capacity for a task; for unknown names
            (before any work), a results folder that another run writes to, a full disk.
    """
    try:
        import ray
    except ImportError:
        raise UserError('the executor ray needs the extra: pip install "iqarena[ray]"') from None
    with open_ledger(evaluator, cells, records, report, fresh, settings.keep_images) as ledger:
        if ledger.waiting:
            _connect(ray, address, None if address else (workers or usable_cores()) * settings.threads)
            try:
                most = capacity(ray, settings)
                _Cluster(ray, settings, ledger).run_all(workers or most)
            finally:
                ray.shutdown()
    return ledger.outcome


def _connect(ray: Any, address: str | None, cores: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
    handler = signal.getsignal(signal.SIGTERM)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        # "local": without an address Ray would join any cluster that it finds
        ray.init(address=address or "local", num_cpus=cores, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        which = f"no Ray cluster at {address}" if address else "no Ray cluster could be started here"
        raise UserError(f"{which}: {' '.join(str(error).split())[:200]}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray replaces it


def capacity(ray: Any, settings: WorkerSettings) -> int:
    """Return the number of tasks that the machines of a cluster can run at once.

    Raises:
        UserError: where no machine can run a single task; Ray would wait for one forever.
    """
    required = {"CPU": settings.threads, "GPU": settings.gpus, "memory": settings.memory or 0}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    tasks = sum(min(int(node.get(name, 0) // amount) for name, amount in required.items() if amount) for node in nodes)
    if not tasks:
        resources = ", ".join(f"{amount:g} {name}" for name, amount in required.items() if amount)
        raise UserError(f"no machine of the Ray cluster has what a task takes: {resources}; see `ray status`")
    return tasks


class _Cluster:
    """The running tasks on a cluster: for each, its stream of messages and the start time of its current cell."""

    def __init__(self, ray: Any, settings: WorkerSettings, ledger: Ledger) -> None:
        self.ray, self.settings, self.ledger = ray, settings, ledger
        self.running: dict[Any, Task] = {}
        self.cell_started: dict[Any, float] = {}
        self.remote = ray.remote(_work).options(
            num_returns="streaming", num_cpus=settings.threads, num_gpus=settings.gpus, max_retries=0, memory=settings.memory
        )

    def run_all(self, workers: int) -> None:
        """Run with at most `workers` tasks at once until every cell has a record."""
        limit = self.settings.seconds
        while self.ledger.waiting or self.running:
            while self.ledger.waiting and len(self.running) < workers:
                task = self.ledger.waiting.popleft()
                stream = self.remote.remote(self.settings, task)
                self.running[stream], self.cell_started[stream] = task, math.inf
            ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=_PATIENCE, fetch_local=False)
            for stream in ready:
                self._handle_next(stream)
            if limit is not None:
                for stream in [s for s in self.running if time.monotonic() - self.cell_started[s] > limit]:
                    self.ray.cancel(stream, force=True)
                    self.ledger.on_timeout(self._remove(stream), limit)

    def _handle_next(self, stream: Any) -> None:
        """Handle the next message of a task, or the reason why there are no more."""
        errors = self.ray.exceptions
        try:
            what, *rest = self.ray.get(next(stream))
        except StopIteration:
            self._remove(stream)
        except errors.RayTaskError as error:  # a bug in the harness or a user error: errors of plugins are in the records
            raise error.cause from None
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            self.ledger.on_crash(self._remove(stream), "", memory=isinstance(error, errors.OutOfMemoryError))
        except errors.RayError as error:
            self.ledger.retry_or_fail(
                self._remove(stream), f"its machine was lost ({type(error).__name__})", _RETRIES_AFTER_NODE_LOSS, halve=False
            )
        else:
            if what == "start":
                self.cell_started[stream] = time.monotonic()
                self.ledger.start(rest[0])
            elif what == "end":
                self.cell_started[stream] = math.inf
                record, images, attacked = rest[0]
                self.ledger.records.write(record, images, attacked)
                self.ledger.end(record["cell_id"], record)
            else:
                self.ledger.on_out_of_memory(self._remove(stream), rest[0])

    def _remove(self, stream: Any) -> Task:
        del self.cell_started[stream]
        return self.running.pop(stream)


# --- runs on the cluster

_EVALUATORS: dict[WorkerSettings, Evaluator] = {}
"""The evaluators of this process, by their settings."""


def _work(settings: WorkerSettings, task: Task) -> Iterator[tuple[Any, ...]]:
    """Run a task; yield a message when a cell starts or ends, or when memory runs out."""
    apply_settings(settings)
    try:
        if settings not in _EVALUATORS:
            settings.engine.checked()
            _EVALUATORS[settings] = settings.evaluator()
        for index, (cell, cell_id) in enumerate(task.work):
            yield ("start", cell_id)
            halvings = task.halvings if index == 0 else 0
            yield ("end", run_cell(_EVALUATORS[settings], cell, cell_id, halvings, settings.keep_images))
    except OutOfMemory as error:
        _EVALUATORS.clear()
        yield ("memory", str(error))
    except MemoryError as error:
        _EVALUATORS.clear()
        yield ("memory", describe(error))
