"""Ranks a data set by every shipped model and writes the correlation with its labels into the cards.

    python -m bench.rank_zoo tid2013-reconstructed --root DIR [MODEL …]

Whole pictures, clean, each model under the training defense that its weights are of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml

from bench.datasets import open_dataset
from bench.datasets.base import Subset
from bench.errors import UserError
from bench.loading import load_model
from bench.registry import DEFENSES, MODELS
from defenses.training.loop import srocc
from models.base import QualityModel
from models.zoo import ZOO, card_of


def shipped() -> dict[str, tuple[str, str]]:
    """Model and defense of each weight file of a model, by the file's name without its ending."""
    cards = {file.stem: card_of(file) for file in sorted(ZOO.glob("*.safetensors"))}
    return {stem: (card["model"], card["defense"]) for stem, card in cards.items() if card["model"] in MODELS.entries}


def deployed(model: str, defense: str) -> QualityModel:
    """A shipped model as it is scored."""
    return DEFENSES.build(defense).protect(load_model(model)).eval()


def main(
    dataset: Annotated[str, typer.Argument(help="registry name of a labelled data set")],
    only: Annotated[list[str] | None, typer.Argument(help="weight files, such as cnniqa; all if left out")] = None,
    root: Annotated[Path | None, typer.Option(help="the data set's folder")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="at most so many pictures, evenly over the references")] = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Write `measured` of the cards."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        opened = open_dataset(dataset, root)
        if opened.label_kind == "none":
            raise UserError(f"the data set {dataset} has no labels")
        if unknown := set(only or ()) - set(shipped()):
            raise UserError(f"no shipped model is called {min(unknown)!r}; there are {', '.join(shipped())}")
        some = Subset(opened, opened.spread(limit))
        for stem, (model, defense) in shipped().items():
            if only and stem not in only:
                continue
            found = {
                "srocc": round(srocc(deployed(model, defense), some), 4),
                "label_kind": opened.label_kind,
                "pictures": len(some),
                "references": len({opened.samples[i].reference_id for i in some.indices}),
                "fingerprint": opened.fingerprint,
            }
            _write(ZOO / f"{stem}.yaml", opened.name, found)
            typer.echo(f"{stem:36} {found['srocc']:7.4f}")
    except UserError as error:
        typer.echo(f"rank_zoo: {error}", err=True)
        raise typer.Exit(2) from None


def _write(path: Path, dataset: str, found: dict[str, object]) -> None:
    card = yaml.safe_load(path.read_text())
    card["measured"][dataset] = found
    part = path.with_suffix(".yaml.part")
    part.write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110))
    part.replace(path)


if __name__ == "__main__":
    typer.run(main)
