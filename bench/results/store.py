"""What finished cells leave on disk, and the table that is rebuilt from it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from iqarena.bench.errors import UserError
from iqarena.bench.metrics.measures import MEASURES, columns, reflection_rate
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.files import _png, _put_back, _sha256, _stored, _sync, _whole, _write_png, _write_synced, as_array

VERSION = 4
"""Of a record. Others are not read: the cell runs again."""

IMAGE_COLUMNS = [
    "image_id",
    "reference_id",
    "mos",
    "clean_quality",
    "adv_quality",
    "undefended_clean_quality",
    "linf",
    "l2",
    "l0",
    "psnr",
    "ssim",
    "forwards",
    "backwards",
    "status",
    "ms_ssim",
]
CELL_COLUMNS = ["dataset", "model", "defense", "attack", "objective", "norm", "eps", "setting", "seed"]
COST_COLUMNS = ["linf_max", "psnr_mean", "ssim_mean", "forwards_mean", "backwards_mean", "seconds", "flags"]
CERTIFICATE_COLUMNS = [
    "certified_srocc",
    "certificate_width",
    "certificate_radius",
    "certificate_confidence",
    "certificates_left",
]
"""Of the deployed model, see `iqarena.bench.evaluation.certification.measure_certificates`; empty for a defense that certifies nothing."""
_MIDDLE = MEASURES.index(reflection_rate) + 1
"""The measures up to this one stand before the costs, the others behind them, as a column keeps its place for ever."""
SUMMARY_COLUMNS = [
    "cell_id",
    *CELL_COLUMNS,
    "n_images",
    "status",
    *columns(MEASURES[:_MIDDLE]),
    *COST_COLUMNS,
    "source",
    *columns(MEASURES[_MIDDLE:]),
    "ms_ssim_mean",
    *CERTIFICATE_COLUMNS,
]


_HASH = b',\n "record_sha256": "'
"""What stands in a record between all that it says and the hash of that text."""

_NEEDED = {"version", "cell", "status", "n_images", "measures", "costs", "flags", "attack", "defense", "model", "dataset"}


_LIST = "sha256.txt"
"""Of a folder of images: a line for each, the hash of its pixels."""


class Scored(NamedTuple):
    """What a board needs of a cell's images, sorted by image_id, so that cells are paired.

    Attributes:
        images: (image_id, reference_id).
        mos, clean, adv: (n,); NaN where there is none.
    """

    images: tuple[tuple[str, str], ...]
    mos: Reals
    clean: Reals
    adv: Reals


class _Checked(NamedTuple):
    """What is remembered of a cell whose files were looked at: their state then, its place and line in the summary."""

    state: object
    place: str
    line: str


class Records:
    """A results folder: ``cells/<cell_id>/{record.json, images.csv}`` and ``summary.csv``.

    Folders are written under a temporary name and renamed, so they are whole or not there. A cell that did not end ``ok``
    is kept for the table but counts as not done. Attacked images, where they are kept, lie in ``images/<crafting>/``,
    once for all cells that share them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cells = folder / "cells"
        self.image_files = folder / "images"
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
            self._sweep()
            yield
        finally:
            try:
                self.rebuild_summary()
            finally:
                lock.release()

    def _sweep(self) -> None:
        """Remove what runs that were killed while they wrote have left; what they had not replaced yet comes back."""
        for folder in (self.cells, self.image_files):
            for old in folder.glob(".*.old"):
                _put_back(old, folder / old.name[1:].rsplit(".", 2)[0])
            for left in folder.glob(".*.part"):
                shutil.rmtree(left, ignore_errors=True)
        for left in self.image_files.glob("originals-*/*.part"):
            left.unlink(missing_ok=True)

    def read(self, cell_id: str) -> dict[str, Any] | None:
        """The record of a cell; None where there is none, or where it is damaged or edited and has to be made again."""
        folder = self.cells / cell_id
        try:
            state = _state(folder)
            text = (folder / "record.json").read_bytes()
            record: dict[str, Any] = json.loads(text)
            if self._known(cell_id, state) is None:  # the same files need not be checked twice
                images = (folder / "images.csv").read_bytes()
                whole = record["images_sha256"] == hashlib.sha256(images).hexdigest() and record["cell_id"] == cell_id
                whole = whole and set(record) >= _NEEDED and set(CELL_COLUMNS) <= set(record["cell"])
                if not (whole and record["version"] == VERSION and _hash_holds(text)):
                    return None
                self._checked[cell_id] = _Checked(state, _place(record), _line(record))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return {"crafting": "", "attacked_images": []} | record

    def images(self, cell_id: str) -> pd.DataFrame:
        """The rows of a cell."""
        return read_images(self.cells / cell_id / "images.csv")

    def scores(self, cell_id: str) -> Scored:
        """Labels and qualities of a cell's images; much faster than a data frame."""
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
        yield from sorted(found, key=lambda record: self._checked[record["cell_id"]].place)

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
            kept = {} if attacked is None else {"attacked_images": self._keep(str(record["crafting"]), attacked)}
            table = images[IMAGE_COLUMNS].to_csv(index=False).encode()
            record = {"version": VERSION, **record, **kept, "images_sha256": hashlib.sha256(table).hexdigest()}
            with _whole(folder) as part:
                _write_synced(part / "images.csv", table)
                _write_synced(part / "record.json", _with_hash(record))
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); finished cells are kept, "
                "make room or choose another --out and run the same command again"
            ) from None

    def _keep(self, crafting: str, images: Iterable[torch.Tensor]) -> list[str]:
        """Store attacked images as 8-bit PNG, unless a cell that shares them has; returns the sha256 of their pixels."""
        folder, pixels = self.image_files / crafting, [as_array(image) for image in images]
        hashes = [_sha256(image) for image in pixels]
        listed = "\n".join([*hashes, ""]).encode()
        with suppress(OSError, UserError):  # they are not there, or not all: some were pruned, or are damaged
            if (folder / _LIST).read_bytes() == listed:
                for place, sha256 in enumerate(hashes):
                    _stored(folder / _png(place), sha256)
                return hashes
        self.image_files.mkdir(exist_ok=True)
        with _whole(folder) as part:
            for place, image in enumerate(pixels):
                _write_png(part / _png(place), image)
            _write_synced(part / _LIST, listed)
        return hashes

    def attacked_image(self, crafting: str, place: int) -> Path:
        """Where the attacked image of a row of images.csv is, if it was kept."""
        return self.image_files / crafting / _png(place)

    def original(self, fingerprint: str, image_id: str) -> Path:
        """Where an image of a data set is as it was before attacks, if it was kept."""
        return (
            self.image_files / f"originals-{fingerprint[:16]}" / f"{hashlib.sha256(image_id.encode()).hexdigest()[:16]}.png"
        )

    def keep_originals(self, fingerprint: str, images: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Store images (3, H, W) uint8 by their image_id as they were before attacks, unless they are there.

        Raises:
            UserError: where the disk is full or read-only.
        """
        try:
            for image_id, image in images:
                path = self.original(fingerprint, image_id)
                if not path.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part = path.with_suffix(f".{os.getpid()}.part")
                    _write_png(part, as_array(image))
                    part.replace(path)
        except OSError as error:
            raise UserError(
                f"{self.image_files}: cannot be written ({error.strerror}); make room or choose another --out"
            ) from None

    def kept(self, record: dict[str, Any]) -> list[torch.Tensor] | None:
        """The attacked images (3, H, W) uint8 of a cell, in the order of its rows; None where they were not kept.

        Raises:
            UserError: where one is missing or has other pixels than when it was stored.
        """
        if not record["attacked_images"]:
            return None
        paths = (self.attacked_image(str(record["crafting"]), place) for place in range(len(record["attacked_images"])))
        found = [_stored(path, sha256) for path, sha256 in zip(paths, record["attacked_images"], strict=True)]
        return [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in found]

    def _known(self, cell_id: str, state: object) -> _Checked | None:
        """What is remembered of a cell, where its files are as they were when they were checked."""
        found = self._checked.get(cell_id)
        return found if found and found.state == state else None

    def _remembered(self, cell_id: str) -> _Checked | None:
        """The same, after a look at the files where they are others; None where there is no whole record."""
        with suppress(OSError):
            if (found := self._known(cell_id, _state(self.cells / cell_id))) is not None:
                return found
        return self._checked[cell_id] if self.read(cell_id) else None

    def rebuild_summary(self) -> None:
        """Write ``summary.csv`` from the records, one row a cell.

        Raises:
            UserError: where the disk is full or read-only.
        """
        found = [known for folder in self.cells.glob("[!.]*") if (known := self._remembered(folder.name))]
        lines = [_csv_line(SUMMARY_COLUMNS), *(known.line for known in sorted(found, key=lambda known: known.place))]
        part = self.folder / f".summary.{os.getpid()}.part"
        try:
            _write_synced(part, "".join(lines).encode())
            part.replace(self.folder / "summary.csv")
            _sync(self.cells)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f"{self.folder / 'summary.csv'}: cannot be written ({error.strerror})") from None

    def summary(self) -> pd.DataFrame:
        """``summary.csv``, rebuilt, with empty text where a text is missing and NaN where a number is."""
        self.rebuild_summary()
        texts = dict.fromkeys(["cell_id", *CELL_COLUMNS, "status", "flags", "source"], str)
        return _read(self.folder / "summary.csv", texts | {"seed": int, "n_images": int, "eps": float})


def read_images(file: Path | TextIO) -> pd.DataFrame:
    """An ``images.csv``."""
    return _read(file, {"image_id": str, "reference_id": str, "status": str})


def _read(file: Path | TextIO, kinds: Mapping[str, type]) -> pd.DataFrame:
    """A table of numbers, but for columns of a kind of their own: empty text where a text is missing, NaN where a number is.

    Every number is what was written; the parser of pandas 2 may miss its last bit, and then 4/255 is not 4/255.
    """
    columns = {}
    for name, values in pd.read_csv(file, dtype=str, keep_default_na=False).items():
        kind = kinds.get(str(name), float)
        columns[name] = (values.replace("", "nan") if kind is float else values).astype(kind)
    return pd.DataFrame(columns)


def _state(folder: Path) -> object:
    """Of the files of a cell; another one where they were written anew."""
    stats = [(folder / name).stat() for name in ("record.json", "images.csv")]
    return [(found.st_mtime_ns, found.st_size, found.st_ino) for found in stats]


def _line(record: dict[str, Any]) -> str:
    """A cell's line of the summary."""
    values = {
        **record["cell"],
        **record["measures"],
        **record["costs"],
        "cell_id": record["cell_id"],
        "n_images": record["n_images"],
        "status": record["status"],
        "flags": " ".join(record["flags"]),
    }
    return _csv_line([values.get(column) for column in SUMMARY_COLUMNS])


def _csv_line(values: list[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)  # a data frame takes ten times as long to write itself
    return text.getvalue()


def _place(record: dict[str, Any]) -> str:
    """What the table is sorted by: what the cell is, then its id."""
    return "\0".join([*(str(record["cell"][column]) for column in CELL_COLUMNS), record["cell_id"]])


def _with_hash(record: dict[str, Any]) -> bytes:
    """A record's file: JSON, whose last value is the sha256 of all the text before that."""
    said = json.dumps(record, indent=1, ensure_ascii=False, default=str).encode().removesuffix(b"\n}")
    return said + _HASH + _hash_of(said)


def _hash_of(said: bytes) -> bytes:
    return hashlib.sha256(said).hexdigest().encode() + b'"\n}\n'


def _hash_holds(text: bytes) -> bool:
    """Whether a record's text is as it was written."""
    before, _, rest = text.rpartition(_HASH)
    return rest == _hash_of(before)
