"""``python -m docs.reference``: write the generated pages of docs/, or only compare them, with ``--check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from docs.reference import PAGES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main(
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit 1 where a page differs")] = False,
) -> None:
    """Write the pages of docs/ that are generated from the registries."""
    differs = False
    for name, render in PAGES.items():
        path, text = DOCS / name, render()
        if not check:
            path.write_text(text, encoding="utf-8")
            typer.echo(path)
        elif path.is_file() and path.read_text(encoding="utf-8") == text:
            typer.echo(f"{name} is what the registry says")
        else:
            typer.echo(f"{name} differs: run python -m docs.reference")
            differs = True
    raise typer.Exit(1 if differs else 0)


if __name__ == "__main__":
    typer.run(main)
