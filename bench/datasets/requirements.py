"""What data sets need on disk, for `iqarena data list`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from iqarena.bench.datasets import dataset_class, open_dataset, registered
from iqarena.bench.errors import UserError


def needs(name: str | None, root: Path | None) -> list[dict[str, Any]]:
    """Name, facts and layout of one data set or of all.

    Args:
        name: registry name; all, in the order of the registry, if left out.
        root: a folder; with it, `found` says what opening the data set there came to.

    Raises:
        UserError: for an unknown name.
    """
    made = [entry.made for entry in registered().values() if entry.made] if name is None else [dataset_class(name)]
    rows = []
    for one in made:
        row = {"name": one.name, **one.facts()}
        rows.append(row if root is None else row | {"found": _found(name or one.name, root)})
    return rows


def _found(spec: str, root: Path) -> str:
    try:
        return f"{len(open_dataset(spec, root)):,} images"
    except UserError as error:
        return f"no: {error}"


def table(rows: list[dict[str, Any]]) -> Table:
    """The same for people."""
    told = Table(
        Column("name", no_wrap=True), Column("images", justify="right"), "labels", box=None, pad_edge=False, leading=1
    )
    told.add_column("below --root", overflow="fold")
    if found := any("found" in row for row in rows):
        told.add_column("found", overflow="fold")
    for row in rows:
        layout = "\n".join(row["layout"]) or "nothing; it is embedded"
        cells = [row["name"], f"{row['count']:,}" if row["count"] else "", row["label_kind"], layout]
        told.add_row(*map(Text, [*cells, *([row["found"]] if found else [])]))
    return told
