"""Reading speed of data sets: ``python -m tests.speed.reading_speed [--labels FILE] [--workers N] [--images N]``.

Two numbers, for comparisons on one machine, not a test:

* seconds to index KADID-10k, its 10,125 images being there as empty files, from a label file in its official form (made
  up here) or from the given one in the form of the IQA-Dataset project;
* images a second of 512×384, decoded, cropped, flipped and batched by `iqarena.defenses.training.loop.batches`, as training

  them, against a bare loop over Pillow in as many processes that throws the pixels away. The two are timed in turns, the
  start of their processes included; what is told are the medians, of the ratio of the turns and of the ratio of the
  processor times, which other work on the machine disturbs less.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from scipy import ndimage

from iqarena.bench.datasets import KADID10k
from iqarena.bench.datasets.base import Subset
from iqarena.bench.datasets.unlabelled import Images
from iqarena.defenses.training.loop import Schedule, batches


def index_kadid(folder: Path, labels: Path | None) -> float:
    names = [f"I{r:02}_{d:02}_{level:02}" for r in range(1, 82) for d in range(1, 26) for level in range(1, 6)]
    (folder / "images").mkdir()
    for name in [*names, *(f"I{r:02}" for r in range(1, 82))]:
        (folder / "images" / f"{name}.png").touch()
    if labels:
        shutil.copyfile(labels, folder / "labels.txt")
    else:
        rows = "\n".join(f"{name}.png,{name[:3]}.png,3.5,0.5" for name in names)
        (folder / "dmos.csv").write_text(f"dist_img,ref_img,dmos,var\n{rows}\n")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert len(KADID10k.open(folder)) == 10_125
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bare(path: Path) -> int:
    with Image.open(path) as opened:
        return int(np.asarray(opened)[0, 0, 0])


def main(
    labels: Annotated[Path | None, typer.Option(help="KADID-10k's labels in the form of the IQA-Dataset project")] = None,
    workers: int = 2,
    images: Annotated[int, typer.Option(help="files; each is read five times in a round")] = 400,
    rounds: int = 5,
) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(f"KADID-10k indexed in {index_kadid(Path(folder), labels):.3f} s")
    for suffix in ("png", "jpg", "bmp"):
        with tempfile.TemporaryDirectory() as folder:
            stream = np.random.RandomState(0)
            for number in range(images):  # smooth noise, about as large a file as a photograph's
                noise = ndimage.gaussian_filter(stream.normal(128, 400, (384, 512, 3)), (3, 3, 0)) + stream.normal(
                    0, 2, (384, 512, 3)
                )
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(Path(folder) / f"{number}.{suffix}", quality=90)
            compare(Path(folder), suffix, workers, rounds)


def spent(work: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds, and the CPU seconds of this process and its finished children, that `work` takes."""
    start, before = time.perf_counter(), os.times()
    work()
    gc.collect()  # a loader's processes end with it
    after = os.times()
    return time.perf_counter() - start, sum(after[:4]) - sum(before[:4])


def compare(folder: Path, suffix: str, workers: int, rounds: int) -> None:
    data = Images(folder)
    paths = [folder / sample.image_id for sample in data.samples] * 5
    schedule, steps = Schedule(batch=32, crop=224, workers=workers), len(paths) // 32
    paths = paths[: 32 * steps]

    def loop() -> None:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            list(pool.imap(bare, paths, chunksize=8))
            pool.close()
            pool.join()

    def training() -> None:
        seen = sum(len(images) for images, _ in batches(Subset(data, range(len(data))), schedule, 0, steps))
        assert seen == len(paths)

    turns = [(spent(training), spent(loop)) for _ in range(rounds)]
    one, two = (len(paths) / statistics.median(turn[index][0] for turn in turns) for index in (0, 1))
    ratio, of_cpu = (statistics.median(turn[1][kind] / turn[0][kind] for turn in turns) for kind in (0, 1))
    size = sum(path.stat().st_size for path in paths) / len(paths) / 1024
    rates = f"{one:.0f} images/s, a bare Pillow loop {two:.0f}"
    print(f"{suffix} ({size:.0f} KiB each): {rates}: ratio {ratio:.2f}, {of_cpu:.2f} by processor time")


if __name__ == "__main__":
    typer.run(main)
