"""Runs the cells that are missing, one after the other, in this process."""

from __future__ import annotations

from bench.arena import Arena
from bench.executors.base import Outcome, Report, missing
from bench.plan import Cell
from bench.records import Records


def run(arena: Arena, cells: list[Cell], records: Records, report: Report, fresh: bool = False) -> Outcome:
    """Run what is missing and rebuild the summary.

    Args:
        arena: of the cells' image set.
        cells: the plan.
        records: where finished cells go.
        report: told of progress.
        fresh: run finished cells again too.

    Raises:
        UserError: for unknown names (before any work), a folder that another run writes to, a disk that takes no more.
    """
    outcome, to_do = missing(arena, cells, records, fresh)
    with records.writing():
        report("plan", None, 0, len(to_do), f"{outcome.kept} done before, {len(outcome.skipped)} skipped")
        for place, (cell, cell_id) in enumerate(to_do):
            report("start", cell, place, len(to_do), "")
            record, images = arena.run(cell, cell_id)
            records.write(record, images)
            outcome.add(cell, record)
            report("end", cell, place + 1, len(to_do), record["status"])
    return outcome
