"""Runs the cells that are missing, one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.arena import Arena, CannotRun
from bench.plan import Cell
from bench.records import Records


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        done: cells that were run now.
        kept: cells that were finished before.
        skipped: (cell, reason) of cells that make no sense.
        failed: (cell, status, first error) of cells that did not end ok.
        cell_ids: of all cells that have a record, in the order of the plan.
    """

    done: int = 0
    kept: int = 0
    skipped: list[tuple[Cell, str]] = field(default_factory=list)
    failed: list[tuple[Cell, str, str]] = field(default_factory=list)
    cell_ids: list[str] = field(default_factory=list)


Report = Callable[[str, Cell | None, int, int, str], None]
"""``report(event, cell, done, to_do, words)``; events are "plan", "start", "end"."""


def run(arena: Arena, cells: list[Cell], records: Records, report: Report, fresh: bool = False) -> Outcome:
    """Run what is missing and rebuild the summary.

    Args:
        arena: of the cells' image set.
        cells: the plan.
        records: where finished cells go.
        report: told of progress.
        fresh: run finished cells again too.

    Raises:
        UserError: for unknown names (before any work) or a disk that takes nothing more.
    """
    outcome = Outcome()
    to_do: list[tuple[Cell, str]] = []
    for cell in cells:
        try:
            cell_id = arena.cell_id(cell)
        except CannotRun as reason:
            outcome.skipped.append((cell, str(reason)))
            continue
        outcome.cell_ids.append(cell_id)
        earlier: dict[str, Any] | None = None if fresh else records.read(cell_id)
        if earlier is not None and earlier["status"] == "ok":
            outcome.kept += 1
        else:
            to_do.append((cell, cell_id))
    records.prepare()
    report("plan", None, 0, len(to_do), f"{outcome.kept} done before, {len(outcome.skipped)} skipped")
    try:
        for place, (cell, cell_id) in enumerate(to_do):
            report("start", cell, place, len(to_do), "")
            record, images = arena.run(cell, cell_id)
            records.write(record, images)
            outcome.done += 1
            if record["status"] != "ok":
                outcome.failed.append((cell, record["status"], (record["errors"] or [""])[0]))
            report("end", cell, place + 1, len(to_do), record["status"])
    finally:
        # finished cells are in the table even if the run ends here
        records.rebuild_summary()
    return outcome
