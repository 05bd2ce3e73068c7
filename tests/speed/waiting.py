"""The cost of threads that wait for work: on a quiet machine and beside one busy process.

Forward and backward passes of `resnet-iqa` with two threads, in new processes, in alternating turns: with the default of
OpenMP, with what `iqarena.bench.process.shorten_waiting` sets, and with ``OMP_WAIT_POLICY=PASSIVE``. It takes two cores on
which nothing else runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.speed.rows import Row, ratio

ROOT = Path(__file__).parents[2]
SETTINGS = {"default": {}, "shortened": {"GOMP_SPINCOUNT": "1000"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
PASSES = """
import time, torch
from iqarena import load_model
torch.set_num_threads(2)
model = load_model("resnet-iqa").to(memory_format=torch.channels_last)
images = torch.rand(8, 3, 192, 192, generator=torch.Generator().manual_seed(0))

def turn():
    leaf = images.clone().requires_grad_()
    started = time.perf_counter()
    torch.autograd.grad(model.quality(leaf).sum(), leaf)
    return time.perf_counter() - started

turn()
print(sum(turn() for _ in range(40)))
"""


def seconds(setting: str) -> float:
    """Return the seconds of forty passes in a new process."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names} | SETTINGS[setting]
    done = subprocess.run(
        [sys.executable, "-c", PASSES], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@contextmanager
def busy_process() -> Iterator[None]:
    """Run a process that keeps one core busy while the context lasts."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def waiting_rows(turns: int) -> Iterator[Row]:
    """Measure the settings in turns, on a quiet machine and beside a busy process."""
    quiet = measure(turns)
    yield row("shortened / default, quiet machine", quiet, ("shortened", "default"), "≤ 1.03")
    with busy_process():
        busy = measure(turns)
    yield row("shortened / passive, beside one busy process", busy, ("shortened", "passive"), "≤ 1.2")
    yield row("default / shortened, beside one busy process", busy, ("default", "shortened"), "")


def measure(turns: int) -> dict[str, list[float]]:
    """Return the seconds of every turn by setting."""
    taken: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(turns):
        for name, times in taken.items():
            times.append(seconds(name))
    return taken


def row(name: str, taken: dict[str, list[float]], pair: tuple[str, str], wanted: str) -> Row:
    """Compare two settings."""
    value, spread = ratio(*(taken[setting] for setting in pair))
    note = ", ".join(f"{setting} {median(times):.2f} s" for setting, times in taken.items())
    return Row("waiting", name, value, wanted=wanted, spread=spread, note=f"forty passes, two threads: {note}")
