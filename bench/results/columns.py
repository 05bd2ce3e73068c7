"""The fields of record.json, and the columns of images.csv and summary.csv.

A column keeps its place for ever; a new one goes to the end.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TextIO

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from iqarena.attacks.objective import Kind
from iqarena.bench.errors import first_message
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
"""The columns of certified defenses, as `iqarena.bench.evaluation.certification` measures them; empty for all others."""

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


def _checked_name(value: object) -> str:
    """Check a text; pydantic's own check refuses lone surrogates, which the names of files may have."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"is no text of at most {_LONGEST} characters")
    return value


_LONGEST = 4000
_Name = Annotated[str, PlainValidator(_checked_name)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Size = Annotated[float, Field(allow_inf_nan=False, ge=0, le=1e9)]
_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Numbers = dict[str, float | None]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True)


class _Cell(_Fields):
    dataset: _Name
    model: _Name
    defense: _Name
    attack: _Name
    objective: Kind
    norm: _Name
    eps: _Size
    setting: _Name
    seed: _Whole
    source: _Name | None = None
    queries: int | None = None
    draws: int = 8
    target: _Number = 1.0
    precision: _Name = ""


class _Attack(_Fields):
    control: bool
    access: str = ""
    ensemble: bool = False
    paper: _Name = ""
    parameters: dict[str, Any] = {}


class _Defense(_Fields):
    kind: _Name
    stochastic: bool = False
    paper: _Name = ""
    weights_sha256: str = ""


class _Model(_Fields):
    paper: _Name = ""
    weights_sha256: str = ""


class _Dataset(_Fields):
    label_kind: _Name
    fingerprint: _Name = ""
    content_sha256: str = ""


class _Curve(_Fields):
    forwards: list[int] = []
    abs_gain: list[float] = []
    srocc: list[float | None] = []
    stability_srocc: list[float | None] = []


class _Finished(_Fields):
    finished: str = ""


class _Record(_Fields):
    """The fields of a record that tables, boards and comparisons read; others may be there."""

    cell_id: str
    cell: _Cell
    status: _Name
    errors: list[str] = []
    n_images: Annotated[int, Field(ge=1, lt=2**63)]
    measures: _Numbers
    costs: _Numbers
    flags: list[_Name]
    attack: _Attack
    defense: _Defense
    model: _Model
    dataset: _Dataset
    curve: _Curve = _Curve()
    crafting: Annotated[str, Field(pattern=r"^[\w-]*$")] = ""
    attacked_images: list[str] = []
    score_seconds_an_image: _Numbers = {}
    provenance: _Finished = _Finished()


def odd_field(record: dict[str, Any]) -> str:
    """Return the first field of a record that is not as a run writes it, and its fault; empty if there is none."""
    try:
        curve = _Record.model_validate(record).curve
    except ValidationError as error:
        return ": ".join(first_message(error))
    lengths = {len(curve.forwards), len(curve.abs_gain), len(curve.srocc), len(curve.stability_srocc)}
    return "curve: its lists have different lengths" if len(lengths) > 1 else ""


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
    csv.writer(text).writerow(values)  # its own line end, so that a text with either of its two characters is quoted
    return text.getvalue().removesuffix("\r\n") + "\n"


def image_lines(images: pd.DataFrame) -> str:
    """Return the rows of a cell's images as the text of images.csv."""
    table = images[IMAGE_COLUMNS]
    text: str = table.to_csv(index=False)
    if "\r" not in text:
        return text
    rows = table.astype(object).where(table.notna(), "").itertuples(index=False)  # pandas does not quote a \r
    return "".join(map(csv_line, [IMAGE_COLUMNS, *map(list, rows)]))


def read_images(file: Path | TextIO) -> pd.DataFrame:
    """Return the rows of an images.csv."""
    return _read(file, {"image_id": str, "reference_id": str, "status": str})


def read_summary(file: Path | TextIO) -> pd.DataFrame:
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
