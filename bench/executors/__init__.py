"""Executors: they run the cells of a suite in this process, in several processes or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from iqarena.bench.cells import expand
from iqarena.bench.executors import isolated, local, processes, ray
from iqarena.bench.executors.schedule import Outcome, ProgressCallback, WorkerSettings, usable_cores
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.process_state import settled
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
    isolate: bool = False,
) -> Outcome:
    """Run the missing cells of a suite.

    Args:
        suite: what to run.
        root: folder of a data set that is not embedded.
        records: where finished cells go.
        report: callback for progress events.
        executor: "local" runs in this process; "processes" in several worker processes, any of which may crash; "ray" on a
            Ray cluster. A suite with a time or memory limit always runs in worker processes.
        workers: number of torch threads (local), or of concurrent processes or tasks, which share the cores of this
            machine; all cores if left out. A worker never gets more threads than torch uses here; a task on an existing
            cluster gets one.
        fresh: run finished cells again too.
        address: address of a running Ray cluster; a local one is started if left out.
        keep_images: store attacked images as 8-bit PNG.
        isolate: craft in other processes, and judge and score in this one, which loads no attack of others; cells that were
            run otherwise are run again.

    Raises:
        UserError: for errors that the caller can fix.
    """
    records = Records(records.folder.absolute())  # a plugin may remove or change the working folder
    root = None if root is None else root.absolute()
    if executor == "local" and workers is not None:
        use_threads(workers)
    with settled():
        cores = usable_cores()
        count = 1 if executor == "local" else workers or cores
        settings = WorkerSettings(
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
        if executor != "ray":  # on a cluster the devices belong to other machines
            settings.engine.checked()
        if isolate:
            return isolated.run(settings, suite, records, report, fresh)
        evaluator, cells = settings.evaluator(), expand(suite)
        if executor == "ray":
            return ray.run(settings, evaluator, cells, records, report, workers, address, fresh)
        if executor == "processes" or suite.seconds is not None or suite.memory_mib is not None:
            return processes.run(settings, evaluator, cells, records, report, count, fresh)
        return local.run(evaluator, cells, records, report, fresh, keep_images)
