"""`folder`: a directory of images with a CSV of scores, under any column names.

``folder`` alone reads ``ROOT/labels.csv`` with the columns image, reference_id and mos in [0, 1]. Other names are given in
brackets: ``folder[table=scores.csv,image=filename,reference=scene,mos=MOS,low=1,high=5]``. If there is no column of
references, ``reference=filename`` makes every image its own reference; if low scores are good, add
``higher_is_better=false``. An image whose label is left empty is kept, and left out of what needs a label; a label that is
no number, True and False included, is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError

from iqarena.bench.datasets.base import SPLITS, ImageFiles, Sample
from iqarena.bench.datasets.tables import is_empty, numeric, read_csv, read_sheet
from iqarena.bench.datasets.tree import path_below, spelled_file
from iqarena.bench.errors import UserError, first_message, printable

Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Columns:
    """The names of the columns of a table of scores, and the range of the scores.

    Attributes:
        table: file name of the table, below the root.
        image: column of the image paths, below the root.
        reference: column of the ids of the reference images.
        mos: column of the scores.
        split: column of "training", "validation" or "test"; optional.
        part: one of these three, to use only its images.
        low, high: range of the scores.
        higher_is_better: direction of the scores.
    """

    table: str = "labels.csv"
    image: str = "image"
    reference: str = "reference_id"
    mos: str = "mos"
    split: str = "split"
    part: Literal["", "training", "validation", "test"] = ""
    low: Finite = 0.0
    high: Finite = 1.0
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low={self.low:g} must be below high={self.high:g}")


class Folder(ImageFiles):
    """A directory of images with a CSV of scores, under any column names.

    Labels made by `iqarena.bench.datasets.demo.make_training_set` are recognised by the ``consensus.json`` next to them, and
    are called pseudo-MOS.
    """

    name = "folder"
    label_kind = "MOS"
    split_description = "a column, else by reference"
    verbatim = True
    layout = """
        labels.csv with the columns image (path below ROOT), reference_id, mos in [0, 1] and, if you like, split
        folder[table=…,image=…,reference=…,mos=…,split=…,part=…,low=…,high=…,higher_is_better=…] for a table of another form
    """

    def __init__(self, root: Path, columns: Columns | None = None) -> None:
        """Read the table; images are opened on demand.

        Args:
            root: the folder.
            columns: file name and columns of the table.

        Raises:
            UserError: if the table is missing, lacks a column, lists an image twice or one outside the folder, or contains a
                label that is no number or out of range, or an unknown split. An image whose label is left empty has none;
                some must have one.
        """
        columns = columns or Columns()
        table_file = root / columns.table
        table = _labelled(table_file, columns)
        images, references, raw = table[columns.image], table[columns.reference], numeric(table[columns.mos])
        self.root, self._written = root, list(images)
        # make_training_set leaves this file next to labels that no person gave
        self.label_kind = "pseudo-MOS" if (root / "consensus.json").is_file() else "MOS"
        self.raw_range, self.higher_is_better = (columns.low, columns.high), columns.higher_is_better
        names = _names(table_file, images)
        rows = zip(names, references, raw.astype(float), strict=True)
        self.samples = [Sample(image, reference, self._label(value), value) for image, reference, value in rows]
        self.official = list(table[columns.split]) if columns.split in table else None
        digest = hashlib.sha256(table_file.read_bytes())
        if columns != Columns():
            digest.update(repr(columns).encode())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def open(cls, root: Path | None) -> Folder:
        """Open the folder `root`, with a table in the standard form."""
        return cls.open_with(root, {})

    @classmethod
    def open_with(cls, root: Path | None, parameters: Mapping[str, Any]) -> Folder:
        """Open the folder `root`, with a table described by the parameters (see `Columns`)."""
        known = [field.name for field in fields(Columns)]
        if unknown := [key for key in parameters if key not in known]:
            raise UserError(f"the data set 'folder' has no parameter {unknown[0]!r}; it has {', '.join(known)}")
        named = {key: str(v) if key not in ("low", "high", "higher_is_better") else v for key, v in parameters.items()}
        try:
            columns = TypeAdapter(Columns).validate_python(named)
        except ValidationError as error:
            raise UserError(f"the data set 'folder': {': '.join(filter(None, first_message(error)))}") from None
        if root is None:
            raise UserError(f"the data set 'folder' needs --root DIR, a folder with a {columns.table} in it")
        return cls(root, columns)

    def file(self, index: int) -> Path:
        return spelled_file(self.root, self._written[index])


def _labelled(file: Path, columns: Columns) -> pd.DataFrame:
    """Read the rows of a table, or of one of its parts, and check names, references and labels.

    Raises:
        UserError: with the first wrong line.
    """
    table = _read(file, columns)
    images, references = table[columns.image], table[columns.reference]
    labels = table[columns.mos]
    raw, empty = numeric(labels), is_empty(labels)
    if (unnamed := images.isna() | references.isna()).any():
        raise UserError(f"{file}: line {_line(unnamed)}: {columns.image} and {columns.reference} must not be empty")
    if (again := images.duplicated()).any():
        raise UserError(f"{file}: line {_line(again)}: {images[again].iloc[0]} has a label already")
    if (no_number := raw.isna() & ~empty).any():
        raise UserError(f"{file}: line {_line(no_number)}: {columns.mos} {labels[no_number].iloc[0]} is not a number")
    if (outside := ~raw.between(columns.low, columns.high) & ~empty).any():
        raise UserError(
            f"{file}: line {_line(outside)}: {columns.mos} {labels[outside].iloc[0]} "
            f"is not in [{columns.low:g}, {columns.high:g}]"
        )
    if columns.split in table and (unknown := ~table[columns.split].isin(SPLITS)).any():
        word = table[columns.split][unknown].iloc[0]
        raise UserError(f"{file}: line {_line(unknown)}: {columns.split} {word} is none of {', '.join(SPLITS)}")
    if columns.part:
        if columns.split not in table:
            raise UserError(f"{file}: lacks the column {columns.split}, which tells what is in {columns.part}")
        table = table[table[columns.split] == columns.part]
        if not len(table):
            raise UserError(f"{file}: holds no image of the part {columns.part}")
    if is_empty(table[columns.mos]).all():
        raise UserError(f"{file}: holds no label in {columns.mos}; for images without labels give --dataset images")
    return table


def _read(file: Path, columns: Columns) -> pd.DataFrame:
    try:
        reader = read_sheet if file.suffix.lower() in (".xlsx", ".xls") else read_csv
        table = reader(file, dtype={columns.image: str, columns.reference: str})
    except UserError as error:
        if file.exists():
            raise
        wanted = f"{columns.image}, {columns.reference}, {columns.mos}"
        raise UserError(f"{file}: not found; a folder data set needs it, with columns {wanted}") from error
    if missing := {columns.image, columns.reference, columns.mos} - set(table.columns):
        has = ", ".join(map(str, table.columns[:8]))
        raise UserError(f"{file}: lacks the column(s) {', '.join(sorted(missing))}; it has {has}")
    if not len(table):
        raise UserError(f"{file}: holds no image")
    return table


def _names(file: Path, images: pd.Series[str]) -> list[str]:
    """Return the ids of images: their paths below the folder, the same for all systems.

    Raises:
        UserError: with the line of the first path that leads elsewhere, or of the second one to the same image.
    """
    names: dict[str, None] = {}
    for row, written in images.items():
        line = f"{file}: line {int(str(row)) + 2}"
        try:
            name = path_below(written)
        except ValueError as error:
            raise UserError(f"{line}: {printable(written)} {error}") from None
        if name in names:
            raise UserError(f"{line}: {name} has a label already")
        names[name] = None
    return list(names)


def _line(wrong: pd.Series[bool]) -> int:
    """Return the line number of the first wrong row; the header is line 1."""
    return int(wrong.index[wrong][0]) + 2
