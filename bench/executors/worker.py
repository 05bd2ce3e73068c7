"""A process that runs cells for another one: told of them through a pipe, it writes their records itself."""

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
from iqarena.bench.executors.schedule import Task, WorkerSettings, make
from iqarena.bench.inference.isolation import OutOfMemory
from iqarena.bench.process import keep_freed_memory, use_threads
from iqarena.bench.results.store import Records

# What is said through the pipe: ("start", cell id), ("end", cell id, status and errors), ("free",) when a task is done,
# ("memory", words) and ("broke", exception) as the last words.


def serve(pipe: Connection, scene: WorkerSettings, folder: Path) -> None:
    """Run tasks until no more come; the target of a new process."""
    os.setpgrp()  # it ends with all that plugins start, and Ctrl-C is the parent's business
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_threads(scene.threads)
    keep_freed_memory()
    limit_memory(scene)
    records, evaluator = Records(folder), None
    try:
        while True:
            task: Task = pipe.recv()
            evaluator = evaluator or scene.evaluator()
            _run(pipe, scene, records, evaluator, task)
            pipe.send(("free",))
    except EOFError:
        return
    except OutOfMemory as error:
        pipe.send(("memory", str(error)))  # and a new process: what a plugin has leaked is gone with this one
    except MemoryError as error:
        pipe.send(("memory", describe(error)))
    except Exception as error:
        pipe.send(("broke", _portable(error)))


def _run(pipe: Connection, scene: WorkerSettings, records: Records, evaluator: Evaluator, task: Task) -> None:
    for place, (cell, cell_id) in enumerate(task.work):
        pipe.send(("start", cell_id))
        record, images, attacked = make(evaluator, cell, cell_id, task.halvings if place == 0 else 0, scene.keep_images)
        records.write(record, images, attacked)
        pipe.send(("end", cell_id, {"status": record["status"], "errors": record["errors"]}))


def limit_memory(scene: WorkerSettings) -> None:
    """Make this process fail where it asks for more than it may have."""
    if scene.memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (scene.memory, scene.memory))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        with suppress(OSError):
            os.killpg(0, signal.SIGKILL)


def _portable(error: Exception) -> Any:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(describe(error))
    return error
