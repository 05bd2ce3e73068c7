"""The columns of images.csv and summary.csv. A column keeps its place for ever; a new one goes to the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from iqarena.bench.metrics.measures import MEASURES, columns, reflection_rate

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
"""Of certified defenses, see `iqarena.bench.evaluation.certification.measure_certificates`; empty for all others."""

_MIDDLE = MEASURES.index(reflection_rate) + 1
"""The measures up to this one stand before the costs, the others behind them."""

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


def summary_line(record: dict[str, Any]) -> str:
    """Return a cell's line of summary.csv."""
    values = {
        **record["cell"],
        **record["measures"],
        **record["costs"],
        "cell_id": record["cell_id"],
        "n_images": record["n_images"],
        "status": record["status"],
        "flags": " ".join(record["flags"]),
    }
    return csv_line([values.get(column) for column in SUMMARY_COLUMNS])


def csv_line(values: list[Any]) -> str:
    """Return one line of a CSV file; a data frame takes ten times as long to write itself."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def read_images(file: Path | TextIO) -> pd.DataFrame:
    """Return the rows of an images.csv."""
    return _read(file, {"image_id": str, "reference_id": str, "status": str})


def read_summary(file: Path) -> pd.DataFrame:
    """Return summary.csv, with empty text where a text is missing and NaN where a number is."""
    texts = dict.fromkeys(["cell_id", *CELL_COLUMNS, "status", "flags", "source"], str)
    return _read(file, texts | {"seed": int, "n_images": int, "eps": float})


def _read(file: Path | TextIO, dtypes: Mapping[str, type]) -> pd.DataFrame:
    """Read a table of numbers, but for the columns that have a type of their own.

    Every number is the one that was written; the parser of pandas 2 may miss its last bit, and then 4/255 is not 4/255.
    """
    table = {}
    for name, values in pd.read_csv(file, dtype=str, keep_default_na=False).items():
        dtype = dtypes.get(str(name), float)
        table[name] = (values.replace("", "nan") if dtype is float else values).astype(dtype)
    return pd.DataFrame(table)
