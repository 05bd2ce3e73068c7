"""Score a data set with every shipped model, and write the correlation with its labels into the cards.

    python -m docs.reference.rank_zoo tid2013-reconstructed --root DIR [MODEL …]

The images are clean and whole; each model has the training defense that its weights belong to.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from rich.console import Console
from rich.progress import track
from scipy import stats

from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import UserError, exit_on_user_error
from iqarena.bench.inference.loading import load_model
from iqarena.bench.process import use_threads
from iqarena.bench.registry import DEFENSES, MODELS, spec_of
from iqarena.models.base import QualityModel
from iqarena.models.zoo import ZOO, card_of


def shipped() -> dict[str, tuple[str, str]]:
    """Return the specs of model and defense of each shipped weight file, by the file's name without its suffix."""
    cards = {file.stem: card_of(file) for file in sorted(ZOO.glob("*.safetensors"))}
    return {stem: _specs(stem, card) for stem, card in cards.items() if card["model"] in MODELS.entries}


def _specs(stem: str, card: Mapping[str, Any]) -> tuple[str, str]:
    model, defense, label = card["model"], card["defense"], stem.partition("@")[2]
    if defense == "none":
        return spec_of(model, {"weights": label}), defense
    return model, spec_of(defense, card["recipe"] | {"weights": label})


def deployed(model: str, defense: str) -> QualityModel:
    """Build a shipped model with its defense."""
    return DEFENSES.build(defense).protect(load_model(model)).eval()


def ranked(models: Mapping[str, QualityModel], dataset: ImageDataset, chosen: Sequence[int]) -> dict[str, float]:
    """Return the SROCC of each model's qualities with the labels of the chosen images."""
    scores: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for i in track(chosen, "looking at images", console=Console(stderr=True), disable=not sys.stderr.isatty()):
            image = dataset.image(i)[None].float() / 255  # decoding takes most of the time for some data sets
            for name, model in models.items():
                scores[name].append(float(model.quality(image)))
    labels = [dataset.mos(i) for i in chosen]
    return {name: float(stats.spearmanr(qualities, labels).statistic) for name, qualities in scores.items()}


@exit_on_user_error("rank_zoo")
def main(
    dataset: Annotated[str, typer.Argument(help="registry name of a labelled data set")],
    only: Annotated[list[str] | None, typer.Argument(help="weight files, such as cnniqa; all if left out")] = None,
    root: Annotated[Path | None, typer.Option(help="the data set's folder")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="at most so many images, evenly over the references")] = None,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Score a data set and write the section `measured` of the cards."""
    if threads is not None:
        use_threads(threads)
    opened = open_dataset(dataset, root)
    if opened.label_kind == "none":
        raise UserError(f"the data set {dataset} has no labels")
    if unknown := set(only or ()) - set(shipped()):
        raise UserError(f"no shipped model is called {min(unknown)!r}; there are {', '.join(shipped())}")
    models = {stem: deployed(*parts) for stem, parts in shipped().items() if not only or stem in only}
    chosen = opened.spread(limit)
    facts = {
        "label_kind": opened.label_kind,
        "images": len(chosen),
        "references": len({opened.samples[i].reference_id for i in chosen}),
        "fingerprint": opened.fingerprint,
    }
    for stem, srocc in ranked(models, opened, chosen).items():
        _write(ZOO / f"{stem}.yaml", opened.name, {"srocc": round(srocc, 4)} | facts)
        typer.echo(f"{stem:36} {srocc:7.4f}")


def _write(path: Path, dataset: str, measured: dict[str, object]) -> None:
    card = yaml.safe_load(path.read_text())
    card["measured"][dataset] = measured
    part = path.with_suffix(".yaml.part")
    part.write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110))
    part.replace(path)


if __name__ == "__main__":
    typer.run(main)
