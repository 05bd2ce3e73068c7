"""Readers of label files: CSV, text, workbooks and MATLAB files as pandas frames, with errors of one line."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat

from iqarena.bench.errors import UserError

Frame = pd.DataFrame


def read_csv(file: Path, **options: Any) -> Frame:
    """Read a comma-separated table, or one with semicolons or tabs, as spreadsheets of different systems write them.

    UTF-8 and, with a byte-order mark, UTF-16 are read; blanks around cells and empty cells at the end of a line are ignored.
    """
    return _read(file, pd.read_csv, io.StringIO(_cleaned(file)), index_col=False, **options)


def _cleaned(file: Path) -> str:
    """Return a table with commas, one line a row.

    Raises:
        UserError: if it cannot be read, or for the first line with more cells than the heading.
    """
    text = _text(file)
    heading = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=heading.count)  # the first of them where all are missing
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    cleaned, width = io.StringIO(), 0
    writer = csv.writer(cleaned, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a carriage return would end a line
    try:
        for cells in lines:
            row = [cell.strip() for cell in cells]
            while len(row) > max(width, 1) and not row[-1]:
                row.pop()
            if separator == ";":  # the comma is a decimal point then
                row = [_DECIMAL.sub(r"\1.\2", cell) for cell in row]
            width = width or len(row)
            if len(row) > width:
                raise UserError(f"{file}: line {lines.line_num}: has {len(row)} cells, and the heading {width}")
            writer.writerow(row if any(row) else [])
    except csv.Error as error:
        raise UserError(f"{file}: line {lines.line_num}: not a readable table ({error})") from None
    return cleaned.getvalue()


_DECIMAL = re.compile(r"^([-+]?\d+),(\d+)$")


def _text(file: Path) -> str:
    try:
        if file.exists() and not file.is_file():
            raise OSError(0, "not a file")  # a pipe would never end
        content = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        return content.decode("utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{file}: line {line}: not a readable table (not UTF-8); save it as CSV in UTF-8") from None


def read_lines(files: Sequence[Path], columns: Sequence[str], separator: str) -> Frame:
    """Read one or several text files without a header as one table."""
    try:
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{files[0]}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    return _read(files[0], pd.read_csv, io.StringIO(text), sep=separator, header=None, names=list(columns), index_col=False)


def read_sheet(file: Path, sheet: str | int = 0, **options: Any) -> Frame:
    """Read one sheet of a workbook."""
    return _read(file, pd.read_excel, sheet_name=sheet, **options)


def _read(file: Path, reader: Any, source: object = None, **options: Any) -> Frame:
    try:
        table: Frame = reader(file if source is None else source, **options)
    except ImportError:
        raise UserError(
            f"{file}: reading a workbook needs another package; pip install 'iqarena[data]', or put a labels.csv beside it"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    # a broken workbook raises an error of the zip library, a missing sheet a ValueError, a broken record almost anything
    except Exception as error:
        message = " ".join(str(error).split())
        raise UserError(f"{file}: not a readable {'table' if reader is pd.read_csv else 'workbook'} ({message})") from None
    return table


def read_mat(file: Path, variable: str) -> NDArray[Any]:
    """Read one variable of a MATLAB file, flattened; cells with one element are replaced by that element.

    Raises:
        UserError: for a file of another format, version 7.3 included, or without the variable.
    """
    try:
        content = loadmat(file)
    except Exception as error:  # scipy raises all kinds of exceptions for a broken file
        raise UserError(f"{file}: not a readable .mat file ({' '.join(str(error).split())})") from None
    if variable not in content:
        raise UserError(f"{file}: holds no {variable}: is it of another release?")
    values = np.asarray(content[variable]).ravel()
    return np.array([_cell(value) for value in values]) if values.dtype == object else values


def _cell(value: Any) -> Any:
    return np.asarray(value).ravel()[0] if np.size(value) == 1 else value


def numeric(labels: pd.Series[Any]) -> pd.Series[float]:
    """Return labels as numbers; NaN for what is none, and True and False are none."""
    truths = labels.map(lambda value: isinstance(value, bool | np.bool_)).astype(bool)
    numbers: pd.Series[float] = pd.to_numeric(labels.mask(truths) if truths.any() else labels, errors="coerce")
    return numbers.astype(float)


def is_empty(labels: pd.Series[Any]) -> pd.Series[bool]:
    """Check which labels are left empty."""
    return labels.isna() | (labels.astype(str).str.strip() == "")


def renamed(table: Frame, file: Path, **columns: str) -> Frame:
    """Select columns and rename them to the names that readers use: ``renamed(table, file, image="dist_img", raw="dmos")``.

    Raises:
        UserError: if a column is missing.
    """
    table = table.rename(columns=lambda name: str(name).strip())
    if missing := [column for column in columns.values() if column not in table]:
        has = ", ".join(map(str, table.columns[:8]))
        raise UserError(f"{file}: lacks the column(s) {', '.join(missing)} (it has {has}): is it of another release?")
    return table[list(columns.values())].set_axis(list(columns), axis=1)
