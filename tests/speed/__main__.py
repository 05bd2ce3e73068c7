"""``python -m tests.speed [GROUP]… [--turns N] [--json] [--write]``: speed figures of this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from iqarena.bench.errors import UserError, exit_on_user_error
from iqarena.bench.process import keep_freed_memory, use_threads
from tests.speed import attacks, cells, growth, page, waiting
from tests.speed.rows import TURNS, Row

GROUPS: dict[str, list[Callable[[int], Iterator[Row]]]] = {
    "pgd": [attacks.pgd_rows, attacks.cprl_rows],
    "libraries": [attacks.library_rows],
    "cells": [cells.overhead_rows, cells.record_rows],
    "workers": [cells.machine_rows, cells.worker_rows],
    "growth": [growth.growth_rows],
    "waiting": [waiting.waiting_rows],
}
"""The groups of figures, in the order of the page."""


@exit_on_user_error("speed")
def main(
    groups: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(GROUPS)}; all if left out")] = None,
    turns: Annotated[int, typer.Option(min=TURNS, help="of every job")] = TURNS,
    json_: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
    write: Annotated[bool, typer.Option("--write", help=f"put these groups into docs/{page.PATH.name}")] = False,
) -> None:
    """Measure medians of the ratios of jobs that are run in turns. Exit with 1 if one misses its limit."""
    wanted = groups or list(GROUPS)
    if unknown := [name for name in wanted if name not in GROUPS]:
        raise UserError(f"no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    use_threads(1)
    keep_freed_memory()
    rows: list[Row] = []
    for name in [name for name in GROUPS if name in wanted]:
        own: list[Row] = []
        for measure in GROUPS[name]:
            for row in measure(turns):
                own.append(row)
                if not json_:
                    print(page.line(row), flush=True)
        if write:
            page.write(own, turns)
        rows += own
    if json_:
        typer.echo(json.dumps([asdict(row) | {"met": row.met} for row in rows], indent=1, ensure_ascii=False))
    sys.exit(int(any(row.met is False for row in rows)))


if __name__ == "__main__":
    typer.run(main)
