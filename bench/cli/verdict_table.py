"""What `iqarena verify` says: claimed beside measured, as a table or as data."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from iqarena.bench.submission.standing import BoardStanding
from iqarena.bench.submission.verify import CheckedNumber, Verdict


def verdict_as_data(verdict: Verdict) -> dict[str, Any]:
    """As JSON can hold it."""
    lines = [
        {
            "cell": line.cell,
            "what": line.what,
            "claimed": line.claimed,
            "measured": line.measured,
            "ok": line.ok,
            "tolerance": line.tolerance,
            "note": line.note,
        }
        for line in verdict.lines
    ]
    standings = [
        {"row": stands.row, "beats": stands.beats, "words": stands.words, "numbers": [n._asdict() for n in stands.numbers]}
        for stands in verdict.standings
    ]
    return {
        "ok": verdict.ok,
        "kind": verdict.kind,
        "name": verdict.name,
        "looked": verdict.looked,
        "open": verdict.open,
        "lines": lines,
        "standings": standings,
    }


def print_verdict(verdict: Verdict, console: Console | None = None) -> None:
    """The table, what differs first, and a last line that says what came out."""
    console = console or Console()
    console.print(Text(f"{'':26}{'claimed':>10}{'measured':>10}{'difference':>12}"))
    before = ""
    for line in sorted(verdict.lines, key=lambda line: line.ok):
        if line.cell != before:
            console.print(Text(line.cell))
        before = line.cell
        what, claimed, measured, difference = _numbers(line)
        outcome = Text("ok", "green") if line.ok else Text("DIFFERS", "red")
        numbers = Text(f"  {what:24}{claimed:>10}{measured:>10}{difference:>12}  ")
        note = f"{'':{8 - len(outcome)}}{line.note}" if line.note else ""
        console.print(Text.assemble(numbers, outcome, note), soft_wrap=True)
    for stands in verdict.standings:
        _print_standing(stands, console)
    wrong = sum(not line.ok for line in verdict.lines)
    words = f"{wrong} of {len(verdict.lines)} numbers differ from the claim" if wrong else "as claimed"
    console.print(Text(f"{verdict.kind} {verdict.name}: {words}"))
    for heading, notes in (("looked at", verdict.looked), ("left open", verdict.open)):
        for note in notes:
            console.print(Text(f"{heading}: {note}"), soft_wrap=True)


def _print_standing(stands: BoardStanding, console: Console) -> None:
    """The listed row beside the claim and what was measured, and whether it is beaten."""
    console.print(Text(f"{'':26}{'listed':>10}{'claimed':>10}{'measured':>10}"))
    console.print(Text(f"on the board: {stands.row}"))
    for what, *values, by in stands.numbers:
        numbers = "".join(f"{_number(value):>10}" for value in values)
        console.print(Text(f"  {what:24}{numbers}{by and '  listed by '}{by}"), soft_wrap=True)
    console.print(Text(stands.words, "green" if stands.beats else ""))


def _numbers(line: CheckedNumber) -> list[str]:
    numbers = [_number(line.claimed), _number(line.measured)]
    difference = "" if line.claimed is None or line.measured is None else f"{line.difference:+.4f}"
    return [line.what, *numbers, difference]


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.0f}" if value == int(value) else f"{value:.4f}"
