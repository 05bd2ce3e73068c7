"""The output of `iqarena verify`: claimed and measured numbers, as a table or as data."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.text import Text

from iqarena.bench.submission.standing import BoardStanding
from iqarena.bench.submission.verify import CheckedNumber, Verdict
from iqarena.bench.terminal import text_table

_WHAT = Column("", min_width=24)


def _numeric(heading: str) -> Column:
    return Column(heading, justify="right", min_width=10)


def verdict_as_data(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON-serialisable data."""
    lines = [
        {
            "cell": number.cell,
            "what": number.what,
            "claimed": number.claimed,
            "measured": number.measured,
            "ok": number.ok,
            "tolerance": number.tolerance,
            "note": number.note,
        }
        for number in verdict.numbers
    ]
    standings = [
        {
            "row": standing.row,
            "beats": standing.beats,
            "words": standing.summary,
            "numbers": [n._asdict() for n in standing.numbers],
        }
        for standing in verdict.standings
    ]
    return {
        "ok": verdict.ok,
        "kind": verdict.kind,
        "name": verdict.name,
        "looked": verdict.checked,
        "open": verdict.unchecked,
        "lines": lines,
        "standings": standings,
    }


def print_verdict(verdict: Verdict, console: Console | None = None) -> None:
    """Print the numbers, those that differ first, and the outcome in the last lines."""
    console = console or Console()
    for cell, numbers in groupby(sorted(verdict.numbers, key=lambda number: number.ok), key=lambda number: number.cell):
        console.print(Text(cell), soft_wrap=True)
        rows = [
            (*_numbers(number), Text("ok", "green") if number.ok else Text("DIFFERS", "red"), number.note)
            for number in numbers
        ]
        console.print(text_table([_WHAT, *map(_numeric, ("claimed", "measured", "difference")), "", ""], rows))
    for standing in verdict.standings:
        _print_standing(standing, console)
    wrong = sum(not number.ok for number in verdict.numbers)
    summary = f"{wrong} of {len(verdict.numbers)} numbers differ from the claim" if wrong else "as claimed"
    console.print(Text(f"{verdict.kind} {verdict.name}: {summary}"))
    for heading, notes in (("looked at", verdict.checked), ("left open", verdict.unchecked)):
        for note in notes:
            console.print(Text(f"{heading}: {note}"), soft_wrap=True)


def _print_standing(standing: BoardStanding, console: Console) -> None:
    """Print the numbers of the listed row, the claim and the measurement, and whether the row is beaten."""
    console.print(Text(f"on the board: {standing.row}"), soft_wrap=True)
    rows = [
        (what, *map(_number, values), f"listed by {attack}" if attack else "") for what, *values, attack in standing.numbers
    ]
    console.print(text_table([_WHAT, *map(_numeric, ("listed", "claimed", "measured")), ""], rows))
    console.print(Text(standing.summary, "green" if standing.beats else ""))


def _numbers(number: CheckedNumber) -> list[str]:
    numbers = [_number(number.claimed), _number(number.measured)]
    difference = "" if number.claimed is None or number.measured is None else f"{number.difference:+.4f}"
    return [number.what, *numbers, difference]


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.0f}" if value == int(value) else f"{value:.4f}"
