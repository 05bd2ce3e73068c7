"""The files that data sets need on disk, for `iqarena data list`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Column, Table

from iqarena.bench.datasets import dataset_class, open_dataset, registered
from iqarena.bench.errors import UserError
from iqarena.bench.terminal import text_table


def needs(name: str | None, root: Path | None) -> list[dict[str, Any]]:
    """Return name, properties and layout of one data set or of all.

    Args:
        name: registry name; all data sets, in the order of the registry, if omitted.
        root: a folder; if given, the entry `found` has the number of images found there, or the error.

    Raises:
        UserError: for an unknown name.
    """
    classes = [entry.cls for entry in registered().values() if entry.cls] if name is None else [dataset_class(name)]
    rows = []
    for cls in classes:
        row = {"name": cls.name, **cls.facts()}
        rows.append(row if root is None else row | {"found": _found(name or cls.name, root)})
    return rows


def _found(spec: str, root: Path) -> str:
    try:
        return f"{len(open_dataset(spec, root)):,} images"
    except UserError as error:
        return f"no: {error}"


def table(rows: list[dict[str, Any]]) -> Table:
    """Format the rows of `needs` as a table for the terminal."""
    columns: list[Column | str] = [
        Column("name", no_wrap=True),
        Column("images", justify="right"),
        "labels",
        Column("below --root", overflow="fold"),
    ]
    if with_root := any("found" in row for row in rows):
        columns.append(Column("found", overflow="fold"))
    cells = []
    for row in rows:
        layout = "\n".join(row["layout"]) or "nothing; it is embedded"
        count = f"{row['count']:,}" if row["count"] else ""
        cells.append([row["name"], count, row["label_kind"], layout, *([row["found"]] if with_root else [])])
    return text_table(columns, cells, leading=1)
