"""Compares settings of training recipes on pictures kept apart for that, so that none is chosen on the pictures of a board.

    python -m bench.search MODEL "trades[beta=1]" "trades[beta=3]" … --root TRAIN --start WEIGHTS --passes 50000 --out DIR

Each is trained on the part `training` of a labelled folder at the same small budget, then attacked on the part `validation`
by a short gradient attack in the adaptive setting. Goes on where it was stopped. The table goes to DIR/search.csv.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from bench.api import evaluate
from bench.datasets import open_dataset
from bench.errors import UserError
from bench.registry import DEFENSES, parse_spec, spec_of
from bench.training import fit
from defenses.training.loop import Schedule
from models.zoo import weight_file


def main(
    model: Annotated[str, typer.Argument(help="registry name")],
    recipes: Annotated[list[str], typer.Argument(help="training defenses with parameters")],
    root: Annotated[Path, typer.Option(help="a labelled folder with the column split")],
    out: Annotated[Path, typer.Option(help="folder for weights, records and search.csv")],
    start: Annotated[Path | None, typer.Option(help="undefended weights to start from")] = None,
    passes: Annotated[int, typer.Option(min=1)] = 50_000,
    crop: Annotated[int, typer.Option(min=32)] = 96,
    learning_rate: Annotated[float, typer.Option(min=1e-8)] = 1e-3,
    ema: Annotated[float, typer.Option(min=0, max=0.99999)] = 0.99,
    attack: Annotated[list[str] | None, typer.Option(help="attacks; the worst counts")] = None,
    eps: Annotated[str, typer.Option()] = "2/255",
    limit: Annotated[int, typer.Option(min=2, help="pictures")] = 100,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Train and attack each recipe, print and write the table."""
    if threads:
        torch.set_num_threads(threads)
    try:
        schedule = Schedule(passes=passes, crop=crop, learning_rate=learning_rate, ema=ema)
        rows = []
        for spec in recipes:
            name, parameters = parse_spec(spec)
            folder = out / hashlib.sha256(spec.encode()).hexdigest()[:12]
            file = weight_file(model, DEFENSES.build(spec).name, folder)
            if not file.is_file():
                fit(model, spec, open_dataset("folder", root), schedule, folder, start=start)
            attacked = evaluate(
                model, attack or ["score-reflection", "score-reflection-away[steps=20]"],
                open_dataset("folder[part=validation]", root),
                defenses=[spec_of(name, parameters | {"weights": file})], eps=eps, limit=limit, out=out / "records",
            )  # fmt: skip
            cells = pd.DataFrame(attacked)
            worst = cells.sort_values("srocc_adv").iloc[0]
            rows.append({
                "recipe": spec, "clean SROCC": worst.srocc_clean, "robust SROCC": worst.srocc_adv,
                "worst attack": worst.attack, "largest mean |shift|": cells.abs_gain.max(),
                "pictures": worst.n_images, "passes": passes,
            })  # fmt: skip
            table = pd.DataFrame(rows)
            table.to_csv(out / "search.csv", index=False, float_format="%.4f")
            typer.echo(table.tail(1).to_string(index=False, header=len(rows) == 1, float_format="%.3f"))
    except UserError as error:
        typer.echo(f"search: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
