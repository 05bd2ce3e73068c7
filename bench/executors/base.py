"""What the executors share: what is to be done, and what was done."""

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

    def add(self, cell: Cell, record: dict[str, Any]) -> None:
        """Count a cell that was run now."""
        self.done += 1
        if record["status"] != "ok":
            self.failed.append((cell, record["status"], (record["errors"] or [""])[0]))


Report = Callable[[str, Cell | None, int, int, str], None]
"""``report(event, cell, done, to_do, words)``; events are "plan", "start", "end"."""

Work = tuple[Cell, str]
"""A cell and its id."""


def missing(arena: Arena, cells: list[Cell], records: Records, fresh: bool = False) -> tuple[Outcome, list[Work]]:
    """What has to be run, in the order of the plan; the outcome holds what is skipped and what was done before.

    Args:
        arena: of the cells' image set.
        cells: the plan.
        records: where finished cells are.
        fresh: finished cells count as missing too.

    Raises:
        UserError: for unknown names and unusable weights.
    """
    outcome, to_do = Outcome(), []
    for cell in cells:
        try:
            cell_id = arena.cell_id(cell)
        except CannotRun as reason:
            outcome.skipped.append((cell, str(reason)))
            continue
        outcome.cell_ids.append(cell_id)
        earlier = None if fresh else records.read(cell_id)
        if earlier is not None and earlier["status"] == "ok":
            outcome.kept += 1
        else:
            to_do.append((cell, cell_id))
    return outcome, to_do
