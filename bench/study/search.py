"""Search for the best parameters of training recipes, on validation images that no leaderboard uses.

    python -m iqarena.bench.study.search MODEL "trades[beta=1]" "trades[beta=3]" … OPTIONS
    python -m iqarena.bench.study.search MODEL --list bench/study/candidates.txt OPTIONS

where OPTIONS are ``--root TRAIN --start WEIGHTS --passes 50000 --out DIR``.

Each recipe is trained on the part `training` of a labelled folder at the same small budget, then attacked on the part
`validation` by short gradient attacks in the adaptive setting, with the same random numbers for all. An interrupted search
is resumed. The table is written to DIR/search.csv. Several processes may share a list (`--part 1/2`, `--part 2/2`, a table
each); when they are done, the same command without a part collects their results in one table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
import typer

from iqarena.bench.api import evaluate
from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import UserError, exit_on_user_error
from iqarena.bench.process import use_threads
from iqarena.bench.registry import DEFENSES
from iqarena.bench.submission.rescoring import defense_with_weights
from iqarena.bench.training import fit
from iqarena.defenses.training.loop import Schedule
from iqarena.models.zoo import weight_file

T = TypeVar("T")

ATTACKS = ("score-reflection", "score-reflection-away[steps=20]")

CANDIDATE = "candidate"
"""The name under which every candidate is attacked, because seeds depend on the name."""


@dataclass(frozen=True)
class Search:
    """A search: the settings that all candidates share.

    Attributes:
        model: registry name.
        root: a labelled folder with the column split.
        schedule: schedule of every training.
        out: folder for weights and records, with a subfolder for each candidate.
        start: undefended weights to start from.
        attacks: specs of attacks, of which the strongest counts.
        eps: radius of the ℓ∞ ball.
        limit: largest number of validation images.
    """

    model: str
    root: Path
    schedule: Schedule
    out: Path
    start: Path | None = None
    attacks: Sequence[str] = ATTACKS
    eps: str = "2/255"
    limit: int = 100

    @cached_property
    def training(self) -> ImageDataset:
        """The training images alone, so that no time is spent on scoring validation images during the training."""
        return open_dataset("folder[part=training]", self.root)

    @cached_property
    def validation(self) -> ImageDataset:
        """The images that the trained models are attacked on."""
        return open_dataset("folder[part=validation]", self.root)

    def rows(self, recipes: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Train and attack each recipe, and yield its row of the table: spec, clean and robust SROCC, attack and budget.

        Raises:
            UserError: for anything that the caller can correct.
        """
        built = [
            DEFENSES.build(spec) for spec in recipes
        ]  # all at once, so that a wrong spec is reported before any training
        for spec, recipe in zip(recipes, built, strict=True):
            folder = self.out / hashlib.sha256(spec.encode()).hexdigest()[:12]
            file = weight_file(self.model, recipe.name, folder)
            if not file.is_file():
                fit(self.model, spec, self.training, self.schedule, folder, start=self.start)
            with as_candidate(spec, file):
                attacked = evaluate(
                    self.model,
                    self.attacks,
                    self.validation,
                    defenses=[CANDIDATE],
                    eps=self.eps,
                    limit=self.limit,
                    out=folder / "records",
                )
            cells = pd.DataFrame(attacked)
            worst = cells.sort_values("srocc_adv").iloc[0]
            yield {
                "recipe": spec,
                "clean SROCC": worst.srocc_clean,
                "robust SROCC": worst.srocc_adv,
                "worst attack": worst.attack,
                "largest mean |shift|": cells.abs_gain.max(),
                "images": worst.n_images,
                "passes": self.schedule.passes,
            }


@contextmanager
def as_candidate(spec: str, file: Path) -> Iterator[None]:
    """Register a recipe with its weights under the name of all candidates while the context lasts."""
    DEFENSES.add(CANDIDATE, defense_with_weights(CANDIDATE, spec, file))
    try:
        yield
    finally:
        del DEFENSES.entries[CANDIDATE]


def read_recipes(file: Path) -> list[str]:
    """Read the recipes of a file: one spec on each line; ``#`` starts a comment.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    return [line for line in lines if line]


def share(recipes: Sequence[T], part: str) -> list[T]:
    """Return every N-th recipe from the K-th on, for the part ``K/N``; all for an empty part.

    Raises:
        UserError: if the part is not of this form.
    """
    if not part:
        return list(recipes)
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"part {part!r} is not of the form 1/2")
    return list(recipes[int(match[1]) - 1 :: int(match[2])])


@exit_on_user_error("search")
def main(
    model: Annotated[str, typer.Argument(help="registry name")],
    root: Annotated[Path, typer.Option(help="a labelled folder with the column split")],
    out: Annotated[Path, typer.Option(help="folder for weights, records and search.csv")],
    recipes: Annotated[list[str] | None, typer.Argument(help="training defenses with parameters")] = None,
    list_: Annotated[Path | None, typer.Option("--list", help="a file with more recipes, one on each line")] = None,
    start: Annotated[Path | None, typer.Option(help="undefended weights to start from")] = None,
    passes: Annotated[int, typer.Option(min=1)] = 50_000,
    crop: Annotated[int, typer.Option(min=32)] = 96,
    learning_rate: Annotated[float, typer.Option(min=1e-8)] = 1e-3,
    ema: Annotated[float, typer.Option(min=0, max=0.99999)] = 0.99,
    attack: Annotated[list[str] | None, typer.Option(help="attacks, of which the strongest counts")] = None,
    eps: Annotated[str, typer.Option()] = "2/255",
    limit: Annotated[int, typer.Option(min=2, help="images")] = 100,
    part: Annotated[str, typer.Option(help="K/N: every N-th recipe from the K-th on, for N processes")] = "",
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Train and attack each recipe; print and write the table."""
    if threads:
        use_threads(threads)
    schedule = Schedule(passes=passes, crop=crop, learning_rate=learning_rate, ema=ema)
    chosen = share([*(recipes or []), *(read_recipes(list_) if list_ else [])], part)
    if not chosen:
        raise UserError("no recipe; name some, or a file with --list")
    table = out / f"search{'-' * bool(part)}{part.replace('/', 'of')}.csv"
    rows = []
    for row in Search(model, root, schedule, out, start, attack or ATTACKS, eps, limit).rows(chosen):
        rows.append(row)
        frame = pd.DataFrame(rows)
        frame.to_csv(table, index=False, float_format="%.4f")
        typer.echo(frame.tail(1).to_string(index=False, header=len(rows) == 1, float_format="%.3f"))


if __name__ == "__main__":
    typer.run(main)
