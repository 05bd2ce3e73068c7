"""Rendering speed of a board:
``python -m tests.speed.board_speed [--records N] [--tracks N] [--results DIR] [--keep DIR]``.

Builds a results folder of N records from the committed ones under other names, sizes of ε and slightly changed qualities,
renders board, plots and page from it in a separate process, and prints the seconds, the peak memory and
the page's size. For comparisons on one machine, not a test.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from iqarena.bench.leaderboard.render import render
from iqarena.bench.results.columns import IMAGE_COLUMNS
from iqarena.bench.results.store import Records

ROOT = Path(__file__).parents[2]


def fabricate(source: Records, out: Records, count: int, tracks: int) -> None:
    """Write `count` records to `out`, made from those of the largest track of `source`, spread over `tracks` sizes of ε."""
    out.prepare()
    track = itemgetter("dataset", "norm", "eps")
    largest = Counter(track(record["cell"]) for record in source.all()).most_common(1)[0][0]
    whole = [record for record in source.all() if track(record["cell"]) == largest]
    originals = [(record, source.images(record["cell_id"])) for record in whole]
    generator = np.random.default_rng(0)
    for number in range(count):
        record, images = originals[number % len(originals)]
        copy = number // len(originals)
        changed: dict[str, Any] = json.loads(json.dumps(record))
        changed["cell_id"] = f"{number:016x}"
        changed["cell"]["eps"] = (1 + copy % tracks) / 255
        changed["cell"]["model"] += f"-{copy // tracks:03d}" if copy >= tracks else ""
        noise = generator.normal(scale=0.02 + 0.1 * (copy % 7), size=len(images))
        table = images.assign(adv_quality=(images.adv_quality + noise).round(6)).reindex(columns=IMAGE_COLUMNS)
        out.write(changed, table)


def rendered(folder: Path, queue: Any) -> None:
    """Render, and put (seconds, CPU seconds, peak MiB) into `queue`."""
    start, core = time.perf_counter(), time.process_time()
    render(Records(folder), folder)
    queue.put(
        (time.perf_counter() - start, time.process_time() - core, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    )


def main(
    records: Annotated[int, typer.Option(min=1)] = 10_000,
    tracks: Annotated[int, typer.Option(min=1)] = 4,
    results: Annotated[Path, typer.Option(help="the records to make others from")] = ROOT / "results",
    keep: Annotated[Path | None, typer.Option(help="leave what was made here")] = None,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        if not (folder / "cells").is_dir():
            fabricate(Records(results), Records(folder), records, tracks)
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        worker = context.Process(target=rendered, args=(folder, queue))
        worker.start()
        seconds, core, peak = queue.get()
        worker.join()
        pages = [f"{page.stat().st_size / 2**20:.2f} MiB of page" for page in folder.glob("site/index.html")]
        typer.echo(
            "; ".join([f"{records:,} records: {seconds:.1f} s, {core:.1f} s of a core", f"{peak:,.0f} MiB at most", *pages])
        )


if __name__ == "__main__":
    typer.run(main)
