"""The commands of `iqarena` for those who bring something: `new`, `check`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


class Kind(StrEnum):
    """What can be begun."""

    attack = "attack"
    defense = "defense"
    model = "model"


@app.command()
def new(
    kind: Kind,
    name: Annotated[str, typer.Argument(help="registry name: small letters, digits and dashes")],
    package: Annotated[
        Path | None, typer.Option(help="folder for a package of its own; into this checkout if left out")
    ] = None,
) -> None:
    """Write a plugin and its test, which pass as they are, with TODOs where the idea goes."""
    from bench.skeletons import new as written

    files, after = written(kind.value, name, package)
    for file in files:
        typer.echo(file)
    typer.echo(f"next: replace the TODOs; then {'; '.join(after)}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="a registry name, or a file: .py with classes, or a network (.pt, .onnx)")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="compare attacks and defenses on it; two small ones if left out"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="pictures of that comparison; 0 leaves it and the check of strength out")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Look whether a plugin does what it says of itself. Exit 0 if all is well, 1 if not."""
    from rich.console import Console

    from bench.conformance import check as checked

    reports = checked(name, model or (), limit)
    if json_:
        typer.echo(json.dumps([report.as_data() for report in reports], indent=1, ensure_ascii=False))
    else:
        for report in reports:
            Console().print(*report.tables(), sep="\n")
    if not all(report.ok for report in reports):
        raise typer.Exit(1)
