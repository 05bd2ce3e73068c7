"""A worker process: it receives tasks through a pipe, runs their cells and writes the records itself."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import threading
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from iqarena.bench.errors import describe
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors.schedule import Task, WorkerSettings, run_cell
from iqarena.bench.inference.isolation import OutOfMemory
from iqarena.bench.process import expect_no_signals, keep_freed_memory, use_threads
from iqarena.bench.results.store import Records

# Messages through the pipe: ("start", cell id), ("end", cell id, status and errors), ("free",) when a task is done;
# ("memory", message) and ("broke", exception) come last.


def serve(pipe: Connection, settings: WorkerSettings, folder: Path) -> None:
    """Run tasks until the pipe closes; the entry point of a new process."""
    begin_child(settings)
    records, evaluator = Records(folder), None
    try:
        while True:
            task: Task = pipe.recv()
            evaluator = evaluator or settings.evaluator()
            _run(pipe, settings, records, evaluator, task)
            pipe.send(("free",))
    except EOFError:
        return
    except OutOfMemory as error:
        pipe.send(("memory", str(error)))  # the parent starts a new process, which frees what a plugin has leaked
    except MemoryError as error:
        pipe.send(("memory", describe(error)))
    except Exception as error:
        pipe.send(("broke", _portable(error)))


def _run(pipe: Connection, settings: WorkerSettings, records: Records, evaluator: Evaluator, task: Task) -> None:
    for index, (cell, cell_id) in enumerate(task.work):
        pipe.send(("start", cell_id))
        record, images, attacked = run_cell(
            evaluator, cell, cell_id, task.halvings if index == 0 else 0, settings.keep_images
        )
        records.write(record, images, attacked)
        pipe.send(("end", cell_id, {"status": record["status"], "errors": record["errors"]}))


def begin_child(settings: WorkerSettings) -> None:
    """Set up this process, which a run has started: it ends with its parent, which handles Ctrl-C, and keeps its limits."""
    os.setpgrp()  # killed together with whatever plugins start
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    apply_settings(settings)


def apply_settings(settings: WorkerSettings) -> None:
    """Apply threads and memory limit to this process, in which plugins will run."""
    expect_no_signals()
    use_threads(settings.threads)
    keep_freed_memory()
    _limit_memory(settings)


def _limit_memory(settings: WorkerSettings) -> None:
    """Set the memory limit of this process."""
    if settings.memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (settings.memory, settings.memory))


def _end_with_parent() -> None:
    """End this process and what it started when its parent ends."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        with suppress(OSError):
            os.killpg(0, signal.SIGKILL)


def _portable(error: Exception) -> Any:
    """Return the exception itself if it can be pickled, else a RuntimeError with its description."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(describe(error))
    return error
