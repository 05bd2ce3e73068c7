"""`iqarena results pack` and `iqarena results unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iqarena.bench.errors import UserError

app = typer.Typer(no_args_is_help=True, help="Put a results folder into a few files, or back into one folder a cell.")

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="the results folder")]


@app.command()
def pack(folder: _Folder = Path("results")) -> None:
    """Pack the cells of a results folder into DIR/packed. All commands read both forms, and a run resumes on either."""
    from iqarena.bench.results.store import Records

    count = Records(_existing(folder)).pack()
    size = sum(path.stat().st_size for path in (folder / "packed").glob("*.xz"))
    typer.echo(f"{folder / 'packed'}: {count:,} cells, {size / 2**20:.1f} MiB")


@app.command()
def unpack(folder: _Folder = Path("results")) -> None:
    """Write the packed cells into DIR/cells, the same bytes that were packed."""
    from iqarena.bench.results.store import Records

    typer.echo(f"{folder / 'cells'}: {Records(_existing(folder)).unpack():,} cells")


def _existing(folder: Path) -> Path:
    if not ((folder / "cells").is_dir() or (folder / "packed").is_dir()):
        raise UserError(f"{folder}: is no results folder; name one that iqarena run --out has written")
    return folder
