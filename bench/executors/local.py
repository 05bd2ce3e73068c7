"""Runs the cells that are missing, one after the other, in this process."""

from __future__ import annotations

from bench.arena import Arena
from bench.executors.base import Outcome, Report, make_here, planned
from bench.plan import Cell
from bench.records import Records


def run(
    arena: Arena, cells: list[Cell], records: Records, report: Report, fresh: bool = False, keep_images: bool = False
) -> Outcome:
    """Run what is missing and rebuild the summary.

    Args:
        arena: of the cells' image set.
        cells: the plan.
        records: where finished cells go.
        report: told of progress.
        fresh: run finished cells again too.
        keep_images: store attacked pictures.

    Raises:
        UserError: for unknown names (before any work), a folder that another run writes to, a disk that takes no more.
    """
    with planned(arena, cells, records, report, fresh, keep_images) as book:
        for cell_id, cell in book.cells.items():
            book.start(cell_id)
            record, images, pictures = make_here(arena, cell, cell_id, keep_images)
            records.write(record, images, pictures)
            book.end(cell_id, record)
    return book.outcome
