"""Data sets by name. Unlike models, attacks and defenses they are few and take a folder, so a table will do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.datasets.base import ImageDataset
from bench.datasets.demo import Demo
from bench.datasets.folder import Folder
from bench.errors import UserError
from bench.registry import nearest


def _folder(root: Path | None) -> ImageDataset:
    if root is None:
        raise UserError("the data set 'folder' needs --root DIR with a labels.csv in it")
    return Folder(root)


DATASETS: dict[str, Callable[[Path | None], ImageDataset]] = {"demo": lambda root: Demo(), "folder": _folder}


def open_dataset(name: str, root: Path | None = None) -> ImageDataset:
    """A data set by its registry name.

    Raises:
        UserError: for an unknown name or a root that does not hold it.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}; {nearest(name, list(DATASETS))}")
    return DATASETS[name](root)
