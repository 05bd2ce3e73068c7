"""How long the bootstrap of a board takes: ``python -m bench.bootstrap_speed``.

SROCC with the labels and mean |shift| of every cell, in every resample, with the intervals of the least and the largest of
them: what a row of the leaderboard is made of.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from bench.bootstrap import interval
from bench.sample import Sample


def measure(resamples: int = 10_000, images: int = 1000, cells: int = 50, references: int = 1000) -> dict[str, float]:
    """Seconds of wall and of processor time for `cells` cells of `images` pictures made from `references`."""
    rng = np.random.default_rng(0)
    labels, clean, noise = rng.uniform(size=images), rng.uniform(size=images), rng.normal(0, 0.2, (cells, images))
    wall, cpu = time.perf_counter(), time.process_time()
    sample = Sample.of([f"r{i % references}" for i in range(images)], resamples)
    sroccs = sample.spearmans(labels, list(clean + noise))
    shifts = [sample.mean(np.abs(row)) for row in noise]
    interval(np.min(sroccs, axis=0))
    interval(np.max(shifts, axis=0))
    return {"resamples": resamples, "images": images, "cells": cells, "references": references,
            "seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("resamples", 10_000), ("images", 1000), ("cells", 50), ("references", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))
