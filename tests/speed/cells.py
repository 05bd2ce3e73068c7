"""Overhead of a cell beside attack and model, and the gain of more processes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from iqarena.bench.cells import expand
from iqarena.bench.checks import LinearToy
from iqarena.bench.datasets import open_dataset
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import Executor, execute, local
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.target import frozen
from iqarena.bench.metrics.measures import measure_cell
from iqarena.bench.process import use_threads
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Suite, validated
from tests.speed.attacks import bare_loop, demo_images
from tests.speed.rows import Row, in_turns, ratio

CELLS = 50
SIDE = 32
LOOPS = 5


def overhead_rows(turns: int) -> Iterator[Row]:
    """Measure cells of a linear model under `random-noise`, which makes no queries: the time is that of the harness."""
    for count, wanted in ((8, "≤ 20"), (60, "")):
        with tempfile.TemporaryDirectory() as scratch:
            root = noise_images(Path(scratch) / "images", count)
            suite = validated(
                {"models": ["linear"], "dataset": "folder", "attacks": ["random-noise"], "settings": ["oblivious"],
                 "threats": [{"eps": (1 + number) / 255} for number in range(CELLS)]}
            )  # fmt: skip
            taken = []
            for turn in range(turns + 1):
                evaluator = Evaluator(open_dataset("folder", root), None, 16, {"linear": LinearToy()})
                started = time.perf_counter()
                outcome = local.run(evaluator, expand(suite), Records(Path(scratch) / str(turn)), lambda *_: None)
                taken.append(1000 * (time.perf_counter() - started) / CELLS)
                assert outcome.done == CELLS
                assert not outcome.failed
            taken = taken[1:]
            yield Row(
                "cells", f"a cell of a trivial model and attack, {count} images", statistics.median(taken), "ms", wanted,
                (min(taken), max(taken)),
                f"{1000 / statistics.median(taken):.0f} cells/s; {CELLS} cells on {SIDE}×{SIDE} pixels, all that a run does",
            )  # fmt: skip


def record_rows(turns: int) -> Iterator[Row]:
    """Time the measures of a cell, and writing and reading its record."""
    with tempfile.TemporaryDirectory() as scratch:
        root = noise_images(Path(scratch) / "images", 60)
        suite = validated(
            {"models": ["linear"], "dataset": "folder", "attacks": ["random-noise"], "settings": ["oblivious"]}
        )
        evaluator = Evaluator(open_dataset("folder", root), None, 16, {"linear": LinearToy()})
        (cell,) = expand(suite)
        record, images = evaluator.run(cell, evaluator.ids.cell_id(cell))
        records = Records(Path(scratch) / "out")
        records.prepare()
        jobs = {
            "the measures of a cell": lambda: measure_cell(images),
            "writing its record": lambda: records.write(record, images),
            "reading its record": lambda: Records(records.folder).read(record["cell_id"]),
        }
        records.write(record, images)
        for name, times in zip(jobs, in_turns(list(jobs.values()), turns), strict=True):
            each = [1000 * seconds for seconds in times]
            yield Row("cells", f"{name}, 60 images", statistics.median(each), "ms", "", (min(each), max(each)))


def worker_rows(turns: int) -> Iterator[Row]:
    """Time one and two processes, and two tasks at once on Ray, with one thread each, after start-up."""
    setups: list[tuple[Executor, int]] = [("processes", 1), ("processes", 2), ("ray", 2)]
    suite = validated(
        {"models": ["resnet-iqa"], "limit": 4, "settings": ["oblivious"],
         "attacks": [f"pgd[steps=20,step_size={0.2 + 0.01 * number:.2f}]" for number in range(25)]}
    )  # fmt: skip
    whole: dict[tuple[Executor, int], list[float]] = {setup: [] for setup in setups}
    steady: dict[tuple[Executor, int], list[float]] = {setup: [] for setup in setups}
    for _ in range(turns):
        for setup in setups:
            seconds, a_cell = timed_run(suite, *setup)
            whole[setup].append(seconds)
            steady[setup].append(a_cell)
    one, two, ray = setups
    note = f"{len(suite.attacks)} cells of PGD on `resnet-iqa`, one thread a process; not counting the first of each"
    for name, wanted, above, below in (
        ("cells/s of two processes / one", "≥ 1.8", one, two),
        ("time of two tasks on Ray / two processes", "≤ 1.1", ray, two),
    ):
        value, spread = ratio(steady[above], steady[below])
        yield Row("workers", name, value, "×", wanted, spread, note)
    for (executor, count), times in whole.items():
        yield Row(
            "workers", f"the whole run, `--executor {executor} --workers {count}`", statistics.median(times), "s", "",
            (min(times), max(times)), "with the start of the processes",
        )  # fmt: skip


def machine_rows(turns: int) -> Iterator[Row]:
    """Time the bare loop in one and in two independent processes: the most that a second process can gain here."""
    gains = []
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=use_threads, initargs=(1,)) as pool:
        for turn in range(turns + 1):
            seconds = []
            for at_once in (1, 2):
                started = time.perf_counter()
                list(pool.map(bare_loops, [LOOPS] * at_once))
                seconds.append(time.perf_counter() - started)
            if turn > 0:
                gains.append(2 * seconds[0] / seconds[1])
    yield Row(
        "workers", "loops/s of two bare loops at once / one", statistics.median(gains), "×", "", (min(gains), max(gains)),
        "of `python -m tests.speed pgd`, without the harness: what this machine gives",
    )  # fmt: skip


# --- what is timed


def bare_loops(count: int) -> None:
    """Run the bare PGD loop `count` times."""
    pixels, model = demo_images(), load_model("resnet-iqa")
    with frozen(model):
        for _ in range(count):
            bare_loop(model, pixels)


def noise_images(folder: Path, count: int) -> Path:
    """Write a labelled folder of small random images."""
    folder.mkdir()
    stream = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = stream.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        rows.append((f"{number:03d}.png", f"r{number // 2}", number / count))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos"]).to_csv(folder / "labels.csv", index=False)
    return folder


def timed_run(suite: Suite, executor: Executor, workers: int) -> tuple[float, float]:
    """Return the seconds of a run, and the seconds a cell once every process has ended its first, which includes set-up."""
    ends: list[float] = []

    def report(event: str, *_: object) -> None:
        if event == "end":
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as scratch:
        use_threads(1)
        started = time.perf_counter()
        outcome = execute(suite, None, Records(Path(scratch)), report, executor, workers)
        seconds = time.perf_counter() - started
    assert (outcome.done, outcome.failed) == (len(suite.attacks), [])
    return seconds, (ends[-1] - ends[workers - 1]) / (len(ends) - workers)
