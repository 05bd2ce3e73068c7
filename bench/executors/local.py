"""Runs the cells that are missing, one after the other, in this process."""

from __future__ import annotations

from iqarena.bench.cells import Cell
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors.schedule import Outcome, ProgressCallback, make_here, planned
from iqarena.bench.results.store import Records


def run(
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    report: ProgressCallback,
    fresh: bool = False,
    keep_images: bool = False,
) -> Outcome:
    """Run what is missing and rebuild the summary.

    Args:
        evaluator: of the cells' image set.
        cells: the plan.
        records: where finished cells go.
        report: told of progress.
        fresh: run finished cells again too.
        keep_images: store attacked images.

    Raises:
        UserError: for unknown names (before any work), a folder that another run writes to, a disk that takes no more.
    """
    with planned(evaluator, cells, records, report, fresh, keep_images) as book:
        for cell_id, cell in book.cells.items():
            book.start(cell_id)
            record, images, attacked = make_here(evaluator, cell, cell_id, keep_images)
            records.write(record, images, attacked)
            book.end(cell_id, record)
    return book.outcome
