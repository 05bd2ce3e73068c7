"""Ways to run the cells of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from iqarena.bench.cells import expand
from iqarena.bench.executors import local, processes, ray
from iqarena.bench.executors.schedule import Outcome, ProgressCallback, WorkerSettings, usable_cores
from iqarena.bench.inference.device import Engine
from iqarena.bench.process import use_threads
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Suite

Executor = Literal["local", "processes", "ray"]


def execute(
    suite: Suite,
    root: Path | None,
    records: Records,
    report: ProgressCallback,
    executor: Executor = "local",
    workers: int | None = None,
    fresh: bool = False,
    address: str | None = None,
    keep_images: bool = False,
) -> Outcome:
    """Run what is missing of a suite.

    Args:
        suite: what to run.
        root: folder of a data set that is not embedded.
        records: where finished cells go.
        report: told of progress.
        executor: "local", in this process; "processes", in several, of which each may die; "ray", on a Ray cluster. A
            suite with limits of time or memory always gets a process of its own.
        workers: torch threads (local), or processes or tasks at once, which share this machine's cores; all of them if left
            out. None has more threads than torch has here; a task on a cluster that is running has one.
        fresh: run finished cells again too.
        address: of a Ray cluster that is running; one is started here if left out.
        keep_images: store attacked images as 8-bit PNG.

    Raises:
        UserError: for anything that the caller can mend.
    """
    if executor == "local" and workers is not None:
        use_threads(workers)
    cores = usable_cores()
    count = 1 if executor == "local" else workers or cores
    scene = WorkerSettings(
        suite.dataset,
        root,
        suite.limit,
        suite.batch,
        Engine(suite.device, suite.compile),
        keep_images,
        threads=1 if address else min(torch.get_num_threads(), max(cores // count, 1)),
        seconds=suite.seconds,
        memory=None if suite.memory_mib is None else suite.memory_mib * 2**20,
        gpus=suite.gpus,
    )
    if executor != "ray":  # there the devices are other machines'
        scene.engine.checked()
    evaluator, cells = scene.evaluator(), expand(suite)
    if executor == "ray":
        return ray.run(scene, evaluator, cells, records, report, workers, address, fresh)
    if executor == "processes" or suite.seconds is not None or suite.memory_mib is not None:
        return processes.run(scene, evaluator, cells, records, report, count, fresh)
    return local.run(evaluator, cells, records, report, fresh, keep_images)
