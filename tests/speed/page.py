"""Tables of docs/performance.md, written by ``python -m tests.speed --write``; its text is written by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from iqarena.bench.errors import UserError
from iqarena.bench.executors.schedule import usable_cores
from iqarena.bench.results.provenance import processor
from tests.speed.rows import Row

PATH = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def line(row: Row) -> str:
    """Format a figure for the terminal."""
    promised = f" ({row.wanted}: {'yes' if row.met else 'NO'})" if row.wanted else ""
    return f"{row.group:<10} {row.name}: {_number(row.value)} {row.unit}{promised}; {_spread(row)}; {row.note}"


def table(rows: Sequence[Row], command: str, turns: int) -> str:
    """Format a group's figures, the machine, and the command that reproduces them."""
    head = [
        f"`{command}`: {usable_cores()} cores of {processor()}, torch {torch.__version__.partition('+')[0]}, "
        f"medians of {turns} turns.",
        "",
        "| what | measured | least – largest | wanted | |",
        "|---|---:|---:|---|---|",
    ]
    body = [
        f"| {row.name} | {_number(row.value)} {row.unit} | {_spread(row)} | "
        f"{row.wanted + (' ✓' if row.met else ' **missed**') if row.wanted else ''} | {row.note} |"
        for row in rows
    ]
    return "\n".join([*head, *body])


def write(rows: Sequence[Row], turns: int) -> None:
    """Replace the tables of the groups that were measured.

    Raises:
        UserError: if the page, or its section for a group, is missing.
    """
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        write_section(group, table(own, f"python -m tests.speed {group}", turns))


def write_section(name: str, content: str) -> None:
    """Replace the content of a section of the page.

    Raises:
        UserError: if the page, or that section, is missing.
    """
    text = PATH.read_text(encoding="utf-8") if PATH.is_file() else ""
    PATH.write_text(with_section(text, name, content), encoding="utf-8")


def with_section(text: str, name: str, content: str) -> str:
    """Return a page's text with other content between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        UserError: if the page has no such section.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    replaced, count = re.subn(
        f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n{content}\n{end}", text, flags=re.DOTALL
    )
    if count != 1:
        raise UserError(f"{PATH.name}: has no single place {start} … {end}")
    return replaced


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(row: Row) -> str:
    return "" if row.spread is None else f"{_number(row.spread[0])} – {_number(row.spread[1])}"
