"""Run the missing cells one after another in this process."""

from __future__ import annotations

from iqarena.bench.cells import Cell
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors.schedule import Outcome, ProgressCallback, open_ledger, run_cell_with_retry
from iqarena.bench.results.store import Records


def run(
    evaluator: Evaluator,
    cells: list[Cell],
    records: Records,
    report: ProgressCallback,
    fresh: bool = False,
    keep_images: bool = False,
) -> Outcome:
    """Run the missing cells and rebuild the summary.

    Args:
        evaluator: evaluator of the cells' image set.
        cells: the planned cells.
        records: where finished cells go.
        report: callback for progress events.
        fresh: run finished cells again too.
        keep_images: store attacked images.

    Raises:
        UserError: for unknown names (before any work), a results folder that another run writes to, a full disk.
    """
    with open_ledger(evaluator, cells, records, report, fresh, keep_images) as ledger:
        for cell_id, cell in ledger.cells.items():
            ledger.start(cell_id)
            record, images, attacked = run_cell_with_retry(evaluator, cell, cell_id, keep_images)
            records.write(record, images, attacked)
            ledger.end(cell_id, record)
    return ledger.outcome
