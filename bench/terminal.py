"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Column, Table
from rich.text import Text


def text_table(
    columns: Sequence[Column | str], rows: Iterable[Sequence[object]], *, show_header: bool = True, **options: Any
) -> Table:
    """Build a table without borders, in whose cells nothing is read as markup.

    Args:
        columns: headings, or columns where a heading needs further options, such as ``Column("p", justify="right")``.
        rows: cells of any type; `Text` keeps its style, None is an empty cell.
        show_header: whether to print the headings.
        options: further options of `rich.table.Table`.
    """
    table = Table(*columns, box=None, pad_edge=False, show_header=show_header, **options)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return table
