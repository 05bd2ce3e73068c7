"""A results folder: the records of finished cells, and the table that is rebuilt from them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from iqarena.bench.errors import UserError
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.columns import (
    CELL_COLUMNS,
    SUMMARY_COLUMNS,
    csv_line,
    image_lines,
    odd_field,
    read_images,
    read_summary,
    summary_line,
)
from iqarena.bench.results.files import (
    KeptImages,
    remove_leftovers,
    replace_synced,
    replaced_at_once,
    sync_folder,
    write_synced,
)
from iqarena.bench.results.formatting import shown
from iqarena.bench.results.packed import CellFiles, PackedCells

VERSION = 4
"""Version of a record. Others are not read: the cell runs again."""

_HASH = b',\n "record_sha256": "'
"""Between all that a record says and the hash of that text."""

_MOST_ERRORS, _MOST_CHARACTERS = 100, 2000
"""Messages of a record, and characters of each: plugins write them."""


class Scored(NamedTuple):
    """The labels and qualities of a cell, sorted by image_id, so that cells are paired.

    Attributes:
        images: (image_id, reference_id).
        mos, clean, adv: (n,); NaN where there is none.
    """

    images: tuple[tuple[str, str], ...]
    mos: Reals
    clean: Reals
    adv: Reals


class _Checked(NamedTuple):
    """A cell whose files were checked: their state at that time, its sort key and its line in the summary."""

    state: object
    sort_key: str
    line: str


class Records:
    """A results folder: ``cells/<cell_id>/{record.json, images.csv}`` and ``summary.csv``.

    A cell's folder is written under a temporary name and renamed, so it is whole or not there. A cell that did not end
    ``ok`` is kept for the table but counts as not done. Cells may also lie in ``packed/``, see
    `iqarena.bench.results.packed`; a cell that has a folder too is read from there.

    Attributes:
        folder: the results folder.
        cells: its folder of cells.
        kept_images: images of cells, where they were kept.
        left_out: cells whose files were read and cannot be used, by id, with the reason.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / "cells"
        self.kept_images = KeptImages(folder / "images")
        self.left_out: dict[str, str] = {}
        self._packed = PackedCells(folder / "packed")
        self._checked: dict[str, _Checked] = {}  # by cell id; text, since ten thousand cells have a million values

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
        """Lock the folder for this run while the context lasts; rebuild the summary when it ends, however it ends.

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
            remove_leftovers(self.cells)
            self.kept_images.remove_leftovers()
            yield
        finally:
            try:
                self.rebuild_summary()
            finally:
                lock.release()

    def cell_ids(self) -> list[str]:
        """Return the ids of all cells that have files, whole or not, sorted."""
        return sorted({folder.name for folder in self.cells.glob("[!.]*")} | set(self._packed.cells()))

    def files(self, cell_id: str) -> CellFiles:
        """Return the bytes of a cell's files.

        Raises:
            OSError: where there are none.
        """
        folder = self.cells / cell_id
        if not folder.is_dir() and (packed := self._packed.cells().get(cell_id)) is not None:
            return packed
        if any(path.exists() and not path.is_file() for path in (folder / "record.json", folder / "images.csv")):
            raise OSError(f"{folder}: holds what is not a file")  # a pipe would never end
        return CellFiles((folder / "record.json").read_bytes(), (folder / "images.csv").read_bytes())

    def _state(self, cell_id: str) -> object:
        """Return what changes when the files of a cell are written anew."""
        folder = self.cells / cell_id
        if not folder.is_dir() and cell_id in self._packed.cells():
            return self._packed.state()
        stats = [(folder / name).stat() for name in ("record.json", "images.csv")]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]

    def read(self, cell_id: str) -> dict[str, Any] | None:
        """Return the record of a cell; None where there is none, or where it is damaged or edited and must be made again."""
        try:
            state = self._state(cell_id)
            files = self.files(cell_id)
            record: dict[str, Any] = json.loads(files.record)
            if self._known(cell_id, state) is None:  # the same files need not be checked twice
                if reason := _unusable(record, cell_id, files):
                    self.left_out[cell_id] = reason
                    return None
                self._checked[cell_id] = _Checked(state, _sort_key(record), summary_line(record))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            self.left_out[cell_id] = "damaged: it cannot be read"
            return None
        self.left_out.pop(cell_id, None)
        return {"crafting": "", "attacked_images": []} | record

    def images(self, cell_id: str) -> pd.DataFrame:
        """Return the rows of a cell's images.csv."""
        return read_images(io.StringIO(self.files(cell_id).images.decode(), newline=""))

    def scores(self, cell_id: str) -> Scored:
        """Return labels and qualities of a cell's images; much faster than a data frame."""
        lines = csv.reader(io.StringIO(self.files(cell_id).images.decode(), newline=""))
        index = {name: column for column, name in enumerate(next(lines))}
        wanted = [index[name] for name in ("image_id", "reference_id", "mos", "clean_quality", "adv_quality")]
        rows = sorted([line[column] for column in wanted] for line in lines)
        numbers = np.array([[value or "nan" for value in row[2:]] for row in rows], dtype=np.float64).reshape(-1, 3)
        return Scored(tuple((row[0], row[1]) for row in rows), *numbers.T)

    def usable_scores(self, record: dict[str, Any]) -> Scored | None:
        """Return the scores of a record's cell; None, with a reason in `left_out`, where its images.csv cannot be used."""
        cell_id, reason = str(record["cell_id"]), ""
        try:
            scores = self.scores(cell_id)
        except (ValueError, IndexError, KeyError, StopIteration, csv.Error):
            self.left_out[cell_id] = "images.csv: not a table of numbers with the columns that it needs"
            return None
        if len(scores.images) != record["n_images"]:
            reason = f"images.csv: {len(scores.images)} images, but the record says {record['n_images']}"
        elif record["status"] == "ok" and not (np.isfinite(scores.clean).all() and np.isfinite(scores.adv).all()):
            reason = "images.csv: lacks a quality, but the record says ok"
        if reason:
            self.left_out[cell_id] = reason
        return None if reason else scores

    def all(self) -> Iterator[dict[str, Any]]:
        """Yield all whole records, in the order of the table."""
        records = [record for cell_id in self.cell_ids() if (record := self.read(cell_id))]
        yield from sorted(records, key=lambda record: self._checked[record["cell_id"]].sort_key)

    def write(self, record: dict[str, Any], images: pd.DataFrame, attacked: Iterable[torch.Tensor] | None = None) -> None:
        """Store a finished cell, replacing an earlier failure.

        Args:
            record, images: of the cell.
            attacked: the attacked images (3, H, W) uint8 in the order of `images`, where they are to be kept.

        Raises:
            UserError: where the disk is full or read-only; what was there before is still there.
        """
        folder = self.cells / str(record["cell_id"])
        try:
            self.cells.mkdir(parents=True, exist_ok=True)  # a plugin may have removed the working folder and all in it
            kept = {}
            if attacked is not None:
                kept = {"attacked_images": self.kept_images.keep(str(record["crafting"]), attacked)}
            table = image_lines(images).encode("utf-8", "backslashreplace")
            record = {"version": VERSION, **record, **kept, "images_sha256": hashlib.sha256(table).hexdigest()}
            record["errors"] = _shortened(record.get("errors", []))
            with replaced_at_once(folder) as part:
                write_synced(part / "images.csv", table)
                write_synced(part / "record.json", _with_hash(record))
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); finished cells are kept, "
                "make room or choose another --out and run the same command again"
            ) from None

    def attacked_images(self, record: dict[str, Any]) -> list[torch.Tensor] | None:
        """Return the attacked images (3, H, W) uint8 of a cell, in the order of its rows; None where they were not kept.

        Raises:
            UserError: where one is missing or has other pixels than when it was stored.
        """
        hashes = record["attacked_images"]
        return self.kept_images.load(str(record["crafting"]), hashes) if hashes else None

    def pack(self) -> int:
        """Put all whole cells into the packed form; damaged ones stay in their folders.

        Returns:
            The number of cells that are packed.

        Raises:
            UserError: where another run has the folder, or where it cannot be written to.
        """
        with self.writing():
            cells = {cell_id: self.files(cell_id) for cell_id in self.cell_ids() if self.read(cell_id) is not None}
            try:
                self._packed.write(cells)
            except OSError as error:
                raise UserError(f"{self._packed.folder}: cannot be written ({error.strerror}); nothing is lost") from None
            for cell_id in cells:
                shutil.rmtree(self.cells / cell_id, ignore_errors=True)
        return len(cells)

    def unpack(self) -> int:
        """Put all packed cells into folders of their own.

        Returns:
            The number of cells that were packed.

        Raises:
            UserError: where another run has the folder, or where it cannot be written to.
        """
        with self.writing():
            try:
                return self._packed.unpack(self.cells)
            except OSError as error:
                raise UserError(f"{self.cells}: cannot be written ({error.strerror}); nothing is lost") from None

    def _known(self, cell_id: str, state: object) -> _Checked | None:
        """Return what is remembered of a cell, where its files are as they were when they were checked."""
        checked = self._checked.get(cell_id)
        return checked if checked and checked.state == state else None

    def _remembered(self, cell_id: str) -> _Checked | None:
        """Return the same after a look at the files where they have changed; None where there is no whole record."""
        with suppress(OSError):
            if (known := self._known(cell_id, self._state(cell_id))) is not None:
                return known
        return self._checked[cell_id] if self.read(cell_id) else None

    def _summary_text(self) -> str:
        whole = [known for cell_id in self.cell_ids() if (known := self._remembered(cell_id))]
        lines = [csv_line(SUMMARY_COLUMNS), *(known.line for known in sorted(whole, key=lambda known: known.sort_key))]
        return "".join(lines).encode("utf-8", "backslashreplace").decode()

    def rebuild_summary(self) -> None:
        """Write ``summary.csv`` from the records, one row a cell.

        Raises:
            UserError: where the disk is full or read-only.
        """
        path = self.folder / "summary.csv"
        try:
            replace_synced(path, self._summary_text().encode())
            sync_folder(self.folder)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None

    def summary(self) -> pd.DataFrame:
        """Return the table of ``summary.csv``, with empty text where a text is missing and NaN where a number is.

        The file is rebuilt too, unless the folder is read-only.
        """
        with suppress(UserError):
            self.rebuild_summary()
        return read_summary(io.StringIO(self._summary_text(), newline=""))


def _with_hash(record: dict[str, Any]) -> bytes:
    """Return a record's file: JSON, whose last value is the sha256 of all the text before that."""
    text = json.dumps(record, indent=1, ensure_ascii=False, default=str)
    before = text.encode("utf-8", "backslashreplace").removesuffix(b"\n}")  # a lone surrogate becomes an escape of JSON
    return before + _HASH + _hash_of(before)


def _shortened(messages: Sequence[str]) -> list[str]:
    """Return messages without what cannot be shown, and without the end where they are long or many."""
    kept = []
    for message in messages[:_MOST_ERRORS]:
        cut = len(message) - _MOST_CHARACTERS
        kept.append(shown(message[:_MOST_CHARACTERS]) + (f" … and {cut} more characters" if cut > 0 else ""))
    more = len(messages) - len(kept)
    return [*kept, f"… and {more} more messages"] if more else kept


def _unusable(record: dict[str, Any], cell_id: str, files: CellFiles) -> str:
    """Return why a record cannot be used; empty if it can."""
    if not isinstance(record, dict) or record.get("version") != VERSION:
        return f"no record of format {VERSION}, the only one that is read"
    whole = record.get("images_sha256") == hashlib.sha256(files.images).hexdigest() and record.get("cell_id") == cell_id
    if not (whole and _hash_holds(files.record)):
        return "damaged or edited: its hash does not hold"
    return odd_field(record)


def _hash_of(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'


def _hash_holds(text: bytes) -> bool:
    """Check whether a record's text is as it was written."""
    before, _, rest = text.rpartition(_HASH)
    return rest == _hash_of(before)


def _sort_key(record: dict[str, Any]) -> str:
    """Return what the table is sorted by: the cell's columns, then its id."""
    return "\0".join([*(str(record["cell"][column]) for column in CELL_COLUMNS), record["cell_id"]])
