"""Runs the cells that are missing on a Ray cluster; the same tasks as `bench.executors.processes`, on other machines too.

Records travel back as each cell ends and are written here, so the machines of the cluster need no folder in common; they
need this project installed, and the data set under the same path. What a lost machine had not finished is run anew.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch

from bench.arena import Arena
from bench.datasets import open_dataset
from bench.errors import UserError
from bench.executors.base import Outcome, Report, Work, missing
from bench.executors.processes import Scene, Task, tasks
from bench.plan import Cell
from bench.records import Records

_CHANCES = 2
"""How often a cell may lose its process and be tried again."""


def run(
    scene: Scene, arena: Arena, cells: list[Cell], records: Records, report: Report, workers: int,
    address: str | None = None, fresh: bool = False,
) -> Outcome:  # fmt: skip
    """Run what is missing and rebuild the summary.

    Args:
        scene: of which `arena` was made.
        arena: of the cells' image set.
        cells: the plan.
        records: where finished cells go.
        report: told of progress.
        workers: tasks at once; without an address also the cores of the local cluster that is started.
        address: of a cluster that is running; None starts one here and ends it.
        fresh: run finished cells again too.

    Raises:
        UserError: where Ray is not installed or the cluster does not answer, for unknown names (before any work), a folder
            that another run writes to, a disk that takes no more.
    """
    try:
        import ray
    except ImportError:
        raise UserError('the executor ray needs the extra: pip install "iqarena[ray]"') from None
    outcome, to_do = missing(arena, cells, records, fresh)
    with records.writing():
        report("plan", None, 0, len(to_do), f"{outcome.kept} done before, {len(outcome.skipped)} skipped")
        if not to_do:
            return outcome
        cores = None if address else workers * scene.threads
        try:
            ray.init(
                address=address, num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster at {address}: {' '.join(str(error).split())[:200]}") from None
        try:
            _go(ray, scene, arena, records, report, outcome, tasks(to_do), workers)
        finally:
            ray.shutdown()
    return outcome


def _go(
    ray: Any, scene: Scene, arena: Arena, records: Records, report: Report, outcome: Outcome, work: list[Task], workers: int
) -> None:
    remote = ray.remote(_work).options(
        num_returns="streaming", num_cpus=scene.threads, num_gpus=scene.gpus, max_retries=0, memory=scene.memory
    )
    total = sum(len(task.work) for task in work)
    waiting = deque((list(task.work), 0) for task in work)  # cells that are left, and how often they lost their process
    running: dict[Any, tuple[list[Work], int]] = {}

    def store(left: list[Work], record: dict[str, Any], images: pd.DataFrame) -> None:
        cell, _ = left.pop(0)
        records.write(record, images)
        outcome.add(cell, record)
        report("end", cell, outcome.done, total, record["status"])

    while waiting or running:
        while waiting and len(running) < workers:
            left, losses = waiting.popleft()
            running[remote.remote(scene, Task(tuple(left)))] = (left, losses)
        (stream,), _ = ray.wait(list(running), num_returns=1, fetch_local=False)
        left, losses = running[stream]
        try:
            store(left, *ray.get(next(stream)))
            running[stream] = (left, 0)
        except StopIteration:
            del running[stream]
        except ray.exceptions.RayTaskError as error:  # a fault of ours: what plugins do wrong is in their records
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:  # the machine or its process is gone
            del running[stream]
            if losses >= _CHANCES:
                store(left, *arena.failed(*left[0], f"its process died {losses + 1} times ({type(error).__name__})"))
                losses = -1
            if left:
                waiting.appendleft((left, losses + 1))


_ARENAS: dict[Scene, Arena] = {}
"""Of a process of the cluster."""


def _work(scene: Scene, task: Task) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    torch.set_num_threads(scene.threads)
    if scene not in _ARENAS:
        _ARENAS[scene] = Arena(open_dataset(scene.dataset, scene.root), scene.limit, scene.batch)
    for cell, cell_id in task.work:
        yield _ARENAS[scene].run(cell, cell_id)
