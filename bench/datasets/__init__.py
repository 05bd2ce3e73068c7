"""Data sets by name. Unlike models, attacks and defenses they are few and take a folder, so a table will do."""

from __future__ import annotations

from pathlib import Path

from bench.datasets.base import ImageDataset
from bench.datasets.demo import Demo
from bench.datasets.folder import Folder
from bench.errors import UserError
from bench.registry import nearest

DATASETS: dict[str, type[ImageDataset]] = {made.name: made for made in (Demo, Folder)}


def open_dataset(name: str, root: Path | None = None) -> ImageDataset:
    """A data set by its registry name.

    Raises:
        UserError: for an unknown name or a root that does not hold it.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; {nearest(name, list(DATASETS))}")
    return DATASETS[name].open(root)
