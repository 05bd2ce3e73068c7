"""Ways to run the cells of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from bench.arena import Arena
from bench.config import Suite
from bench.datasets import open_dataset
from bench.executors import local, processes
from bench.executors.base import Outcome, Report
from bench.plan import expand
from bench.records import Records

Executor = Literal["local", "processes"]


def execute(
    suite: Suite, root: Path | None, records: Records, report: Report, executor: Executor = "local",
    workers: int | None = None, fresh: bool = False,
) -> Outcome:  # fmt: skip
    """Run what is missing of a suite.

    Args:
        suite: what to run.
        root: folder of a data set that is not embedded.
        records: where finished cells go.
        report: told of progress.
        executor: "local", in this process; "processes", in several, of which each may die. A suite with limits of time
            or memory always gets a process of its own.
        workers: torch threads (local) or processes; all cores if left out.
        fresh: run finished cells again too.

    Raises:
        UserError: for anything that the caller can mend.
    """
    records.prepare()
    apart = executor == "processes" or suite.seconds is not None or suite.memory_mib is not None
    if executor == "local" and workers is not None:
        torch.set_num_threads(workers)
    cores = processes.usable_cores()
    count = (workers or cores) if executor == "processes" else 1
    scene = processes.Scene(
        suite.dataset, root, suite.limit, suite.batch,
        threads=max(cores // count, 1) if executor == "processes" else torch.get_num_threads(),
        seconds=suite.seconds, memory=None if suite.memory_mib is None else suite.memory_mib * 2**20,
    )  # fmt: skip
    arena = Arena(open_dataset(suite.dataset, root), suite.limit, suite.batch)
    if apart:
        return processes.run(scene, arena, expand(suite), records, report, count, fresh)
    return local.run(arena, expand(suite), records, report, fresh)
