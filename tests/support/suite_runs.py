"""Run a suite on a model object, and read its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from iqarena.bench.cells import expand
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from iqarena.models.base import QualityModel


def run_all(dataset: ImageDataset, model: QualityModel, out: Path, batch: int = 16, **suite: Any) -> local.Outcome:
    """Run a suite on one model object."""
    chosen = validated({"models": [model.info.name], "dataset": dataset.name, **suite})
    evaluator = Evaluator(dataset, chosen.limit, batch, {model.info.name: model})
    return local.run(evaluator, expand(chosen), Records(out), lambda *_: None)


def summary(out: Path) -> pd.DataFrame:
    """Return summary.csv of a results folder."""
    return pd.read_csv(out / "summary.csv")
