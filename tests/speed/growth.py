"""Cost of planning, resuming and rendering as a results folder grows."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from iqarena.bench.cells import expand
from iqarena.bench.datasets import open_dataset
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import execute
from iqarena.bench.executors.schedule import missing
from iqarena.bench.leaderboard.render import render
from iqarena.bench.results import store as on_disk
from iqarena.bench.results.provenance import peak_mib
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Suite, validated
from tests.speed.rows import Row

SIZES = (100, 1_000, 10_000)
IMAGES = 60
RENDERED_TURNS = 1
"""Rendering is measured once: it is slow, and it has no limit to meet."""


def growth_rows(turns: int) -> Iterator[Row]:
    """Measure seconds, memory, and milliseconds a cell, each in a separate process."""
    jobs = {"planning": (planned, turns), "resuming, all done": (resumed, turns), "rendering": (rendered, RENDERED_TURNS)}
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {count: fabricate(suite_of(count), Path(scratch) / str(count)) for count in SIZES}
        for name, (job, times) in jobs.items():
            for _ in range(times):
                for count, folder in folders.items():
                    measured.setdefault((name, count), []).append(in_new_process(job, count, folder))
            shutil.rmtree(Path(scratch) / "board", ignore_errors=True)
    for name in jobs:
        seconds = {count: statistics.median(s for s, _ in measured[name, count]) for count in SIZES}
        few, medium, many = SIZES
        for count in SIZES:
            own = [s for s, _ in measured[name, count]]
            memory = max(mib for _, mib in measured[name, count])
            promised = name.startswith("resuming") and count == many
            yield Row(
                "growth", f"{name}, {count:,} cells", seconds[count], "s", "≤ 5" if promised else "", (min(own), max(own)),
                f"{memory:,.0f} MiB at most; {1000 * seconds[count] / count:.2f} ms a cell",
            )  # fmt: skip
            if promised:
                yield Row("growth", "memory of that, torch and all", memory * 2**20 / 1e6, "MB", "≤ 500")
        first, last = (seconds[medium] - seconds[few]) / (medium - few), (seconds[many] - seconds[medium]) / (many - medium)
        yield Row(
            "growth", f"{name}: a further cell beyond {medium:,} / beyond {few:,}", last / first, "×", "",
            None, f"{1000 * last:.2f} and {1000 * first:.2f} ms",
        )  # fmt: skip


# --- what is timed


def suite_of(count: int) -> Suite:
    """Return a suite of `count` cells: 5 defenses of 2 models, 5 sizes of ε, both settings, attacks of different steps."""
    return validated(
        {"models": ["resnet-iqa", "cnniqa"], "defenses": ["none", "jpeg", "flip", "bit-depth", "median-blur"],
         "limit": IMAGES, "threats": [{"eps": (1 + size) / 255} for size in range(5)],
         "attacks": [f"pgd[steps={1 + number}]" for number in range(count // 100)]}
    )  # fmt: skip


def planned(count: int, folder: Path) -> None:
    """Expand a suite to cells with ids, none of them done."""
    suite = suite_of(count)
    evaluator = Evaluator(open_dataset(suite.dataset), suite.limit, suite.batch)
    _, to_do = missing(evaluator, expand(suite), Records(folder / "nothing"))
    assert len(to_do) == count


def resumed(count: int, folder: Path) -> None:
    """Resume a finished run: plan, read and check every record, nothing to do, rebuild summary.csv."""
    assert execute(suite_of(count), None, Records(folder), lambda *_: None).kept == count


def rendered(count: int, folder: Path) -> None:
    """Render leaderboard, plots and page from the records."""
    render(Records(folder), folder.parent / "board")


def fabricate(suite: Suite, folder: Path) -> Path:
    """Build a results folder in which every cell of a suite is done: one was run, the others have noise on its qualities."""
    evaluator = Evaluator(open_dataset(suite.dataset), suite.limit, suite.batch)
    cells, records, stream = expand(suite), Records(folder), np.random.default_rng(0)
    record, images = evaluator.run(cells[0], evaluator.ids.cell_id(cells[0]))
    records.prepare()
    with mock.patch.object(on_disk, "_sync"), mock.patch("os.fsync"):  # durability after a crash is not needed here
        for cell in cells:
            changed: dict[str, Any] = json.loads(json.dumps(record))
            changed |= {
                "cell": asdict(cell),
                "cell_id": evaluator.ids.cell_id(cell),
                "crafting": evaluator.ids.crafting_id(cell),
            }
            noise = stream.normal(scale=0.02, size=len(images))
            records.write(changed, images.assign(adv_quality=(images.adv_quality + noise).round(6)))
    return folder


def in_new_process(job: Callable[[int, Path], None], count: int, folder: Path) -> tuple[float, float]:
    """Return the seconds of a job and its peak memory in MiB, in a new process whose imports are not counted."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send_cost, args=(theirs, job, count, folder))
    process.start()
    theirs.close()
    seconds, memory = ours.recv()
    process.join()
    return seconds, memory


def _send_cost(pipe: Any, job: Callable[[int, Path], None], count: int, folder: Path) -> None:
    started = time.perf_counter()
    job(count, folder)
    pipe.send((time.perf_counter() - started, peak_mib()))
