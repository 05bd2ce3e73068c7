"""What finished cells leave on disk, and the table that is rebuilt from it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from bench.errors import UserError
from bench.measures import FIXED, LATER, columns
from bench.weighted import Reals

VERSION = 1
IMAGE_COLUMNS = [
    "image_id", "reference_id", "mos", "clean_quality", "adv_quality", "undefended_clean_quality", "linf", "l2", "l0",
    "psnr", "ssim", "forwards", "backwards", "status", "ms_ssim",
]  # fmt: skip
CELL_COLUMNS = ["dataset", "model", "defense", "attack", "objective", "norm", "eps", "setting", "seed"]
COST_COLUMNS = ["linf_max", "psnr_mean", "ssim_mean", "forwards_mean", "backwards_mean", "seconds", "flags"]
LATER_COLUMNS = ["source", *columns(LATER), "ms_ssim_mean"]
"""What came later stands behind what was there, so that a script that counts columns still finds its own."""
SUMMARY_COLUMNS = ["cell_id", *CELL_COLUMNS, "n_images", "status", *columns(FIXED), *COST_COLUMNS, *LATER_COLUMNS]


_NEEDED = {"version", "cell", "status", "n_images", "measures", "costs", "flags", "attack", "defense", "model", "dataset"}


class Scored(NamedTuple):
    """What a board needs of a cell's pictures, sorted by image_id, so that cells are paired.

    Attributes:
        pictures: (image_id, reference_id).
        mos, clean, adv: (n,); NaN where there is none.
    """

    pictures: tuple[tuple[str, str], ...]
    mos: Reals
    clean: Reals
    adv: Reals


class Records:
    """A results folder: ``cells/<cell_id>/{record.json, images.csv}`` and ``summary.csv``.

    A cell's folder is written under a temporary name and renamed, so it is whole or not there. A cell that did not end
    ``ok`` is kept for the table but counts as not done.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / "cells"

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            UserError: where it cannot be written to.
        """
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".writable-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written to ({error.strerror}); choose another --out") from None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The folder is this run's alone as long as the context lasts; when it ends, however, the summary is rebuilt.

        Raises:
            UserError: where another run has it, or where it cannot be written to.
        """
        self.prepare()
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.folder}: another run writes to it; wait for its end or choose another --out") from None
        try:
            yield
        finally:
            try:
                self.rebuild_summary()
            finally:
                lock.release()

    def read(self, cell_id: str) -> dict[str, Any] | None:
        """The record of a cell; None where there is none, or where it is damaged and has to be made again."""
        folder = self.cells / cell_id
        try:
            record: dict[str, Any] = json.loads((folder / "record.json").read_text())
            images = (folder / "images.csv").read_bytes()
            whole = record["images_sha256"] == hashlib.sha256(images).hexdigest() and record["cell_id"] == cell_id
            whole = whole and set(record) >= _NEEDED and set(CELL_COLUMNS) <= set(record["cell"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if whole else None

    def images(self, cell_id: str) -> pd.DataFrame:
        """The rows of a cell."""
        return pd.read_csv(self.cells / cell_id / "images.csv", dtype={"image_id": str, "reference_id": str})

    def scores(self, cell_id: str) -> Scored:
        """Labels and qualities of a cell's pictures; much faster than a data frame."""
        with (self.cells / cell_id / "images.csv").open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            place = {name: column for column, name in enumerate(next(lines))}
            wanted = [place[name] for name in ("image_id", "reference_id", "mos", "clean_quality", "adv_quality")]
            rows = sorted([line[column] for column in wanted] for line in lines)
        numbers = np.array([[value or "nan" for value in row[2:]] for row in rows], dtype=np.float64).reshape(-1, 3)
        return Scored(tuple((row[0], row[1]) for row in rows), *numbers.T)

    def all(self) -> Iterator[dict[str, Any]]:
        """All whole records, in the order of the table."""
        found = [record for folder in sorted(self.cells.glob("[!.]*")) if (record := self.read(folder.name))]
        yield from sorted(found, key=lambda r: (*(str(r["cell"][column]) for column in CELL_COLUMNS), r["cell_id"]))

    def write(self, record: dict[str, Any], images: pd.DataFrame) -> None:
        """Store a finished cell, replacing an earlier failure.

        Raises:
            UserError: where the disk is full or read-only; what was there before is still there.
        """
        folder = self.cells / str(record["cell_id"])
        part = self.cells / f".{folder.name}.{os.getpid()}.part"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            table = images[IMAGE_COLUMNS].to_csv(index=False).encode()
            record = {"version": VERSION, **record, "images_sha256": hashlib.sha256(table).hexdigest()}
            _write_synced(part / "images.csv", table)
            _write_synced(
                part / "record.json", (json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n").encode()
            )
            if folder.exists():
                old = self.cells / f".{folder.name}.{os.getpid()}.old"
                folder.rename(old)
                part.rename(folder)
                shutil.rmtree(old)
            else:
                part.rename(folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); finished cells are kept, "
                "make room or choose another --out and run the same command again"
            ) from None

    def rebuild_summary(self) -> pd.DataFrame:
        """Write ``summary.csv`` from the records, one row a cell, and return it."""
        rows = [
            {"cell_id": record["cell_id"], **{c: record["cell"][c] for c in CELL_COLUMNS}, "n_images": record["n_images"],
             "status": record["status"], **record["measures"], **record["costs"], "flags": " ".join(record["flags"]),
             "source": record["cell"].get("source", "")}
            for record in self.all()
        ]  # fmt: skip
        table = pd.DataFrame(rows, columns=SUMMARY_COLUMNS)
        part = self.folder / f".summary.{os.getpid()}.part"
        try:
            _write_synced(part, table.to_csv(index=False).encode())
            part.replace(self.folder / "summary.csv")
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f"{self.folder / 'summary.csv'}: cannot be written ({error.strerror})") from None
        return table


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
