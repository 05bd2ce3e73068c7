"""Runs of a few cells on four small images, for the tests of executors and faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from iqarena.bench.executors import Executor, execute
from iqarena.bench.executors.schedule import Outcome
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Suite, validated

PLUGIN = f"file:{Path(__file__).parent / 'misbehaving.py'}:Attacker"


def four_images(folder: Path) -> Path:
    """Write four random images of two references, with labels; return the folder."""
    folder.mkdir()
    stream = np.random.default_rng(0)
    rows = []
    for number in range(4):
        Image.fromarray(stream.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append((f"{number}.png", f"r{number % 2}", number / 4))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos"]).to_csv(folder / "labels.csv", index=False)
    return folder


def attacker(deed: str, **more: str) -> str:
    """Return the spec of the misbehaving plugin with a deed."""
    return f"{PLUGIN}[{','.join(f'{key}={value}' for key, value in {'deed': deed, **more}.items())}]"


def suite(*deeds: str, **more: object) -> Suite:
    """Build a suite of `cnniqa` under misbehaving plugins, or under registered attacks where a name has brackets."""
    attacks = [{"attack": d if "[" in d else attacker(d), "objectives": ["raise"]} for d in deeds]
    return validated(
        {"models": ["cnniqa"], "dataset": "folder", "attacks": attacks, "settings": ["adaptive"], "batch": 4, **more}
    )


def go(chosen: Suite, root: Path, out: Path, executor: Executor = "processes", workers: int = 1, **more: object) -> Outcome:
    """Run a suite."""
    return execute(chosen, root, Records(out), lambda *_: None, executor, workers, **more)  # type: ignore[arg-type]


def table(out: Path) -> pd.DataFrame:
    """Return the summary without the column `seconds`, which may differ."""
    return pd.read_csv(out / "summary.csv").drop(columns="seconds")
