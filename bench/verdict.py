"""What `iqarena verify` says: claimed beside measured, as a table or as data."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from bench.verify import Line, Verdict


def verdict_as_data(verdict: Verdict) -> dict[str, Any]:
    """As JSON can hold it."""
    lines = [
        {"cell": line.cell, "what": line.what, "claimed": line.claimed, "measured": line.measured, "ok": line.ok,
         "tolerance": line.tolerance, "note": line.note}
        for line in verdict.lines
    ]  # fmt: skip
    return {"ok": verdict.ok, "kind": verdict.kind, "name": verdict.name, "looked": verdict.looked, "open": verdict.open,
            "lines": lines}  # fmt: skip


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
        outcome = Text("ok     ", "green") if line.ok else Text("DIFFERS", "red")
        numbers = Text(f"  {what:24}{claimed:>10}{measured:>10}{difference:>12}  ")
        console.print(Text.assemble(numbers, outcome, f" {line.note}"))
    wrong = sum(not line.ok for line in verdict.lines)
    words = f"{wrong} of {len(verdict.lines)} numbers differ from the claim" if wrong else "as claimed"
    console.print(Text(f"{verdict.kind} {verdict.name}: {words}"))
    for heading, notes in (("looked at", verdict.looked), ("left open", verdict.open)):
        for note in notes:
            console.print(Text(f"{heading}: {note}"))


def _numbers(line: Line) -> list[str]:
    numbers = [_number(line.claimed), _number(line.measured)]
    difference = "" if line.claimed is None or line.measured is None else f"{line.difference:+.4f}"
    return [line.what, *numbers, difference]


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.0f}" if value == int(value) else f"{value:.4f}"
