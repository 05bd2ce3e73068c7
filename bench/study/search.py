"""Compares settings of training recipes on images kept apart for that, so that none is chosen on the images of a board.

    python -m iqarena.bench.study.search MODEL "trades[beta=1]" "trades[beta=3]" … --root TRAIN --start WEIGHTS --passes 50000 --out DIR
    python -m iqarena.bench.study.search MODEL --list bench/study/candidates.txt --root TRAIN --start WEIGHTS --passes 50000 --out DIR

Each is trained on the part `training` of a labelled folder at the same small budget, then attacked on the part `validation`
by short gradient attacks in the adaptive setting, with the same random numbers for all. Goes on where it was stopped. The
table goes to DIR/search.csv. Several processes may share a list (`--part 1/2`, `--part 2/2`, a table each); when they are
done, the same command without a part gathers what is there in one table.
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
from iqarena.bench.submission.rescoring import brought
from iqarena.bench.training import fit
from iqarena.defenses.training.loop import Schedule
from iqarena.models.zoo import weight_file

T = TypeVar("T")

ATTACKS = ("score-reflection", "score-reflection-away[steps=20]")

CANDIDATE = "candidate"
"""The name under which every candidate is attacked, as seeds depend on the name."""


@dataclass(frozen=True)
class Search:
    """What all candidates of a search have in common.

    Attributes:
        model: registry name.
        root: a labelled folder with the column split.
        schedule: of every training.
        out: folder for weights and records, one in it for each candidate.
        start: undefended weights to start from.
        attacks: the worst counts.
        eps: of the ℓ∞ ball.
        limit: at most so many validation images.
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
        """Without the validation part, so that no time goes into scoring that on the way."""
        return open_dataset("folder[part=training]", self.root)

    @cached_property
    def validation(self) -> ImageDataset:
        """What the trained models are attacked on."""
        return open_dataset("folder[part=validation]", self.root)

    def rows(self, recipes: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A row a recipe, in this order: its spec, clean and robust SROCC and what they are of.

        Raises:
            UserError: for anything that the caller can mend.
        """
        known = [DEFENSES.build(spec) for spec in recipes]  # so that a slip of the pen at the end is told at once
        for spec, recipe in zip(recipes, known, strict=True):
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
    """Meanwhile, a recipe with weights of its own goes by the name of all candidates."""
    DEFENSES.add(CANDIDATE, brought(CANDIDATE, spec, file))
    try:
        yield
    finally:
        del DEFENSES.entries[CANDIDATE]


def listed(file: Path) -> list[str]:
    """The recipes in a file: a spec a line; what follows a ``#`` is a comment.

    Raises:
        UserError: where it cannot be read.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    return [line for line in lines if line]


def share(recipes: Sequence[T], part: str) -> list[T]:
    """Every N-th of some recipes from the K-th on, for a part ``K/N``; all for an empty one.

    Raises:
        UserError: for a part that is none.
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
    list_: Annotated[Path | None, typer.Option("--list", help="a file with more of them, one a line")] = None,
    start: Annotated[Path | None, typer.Option(help="undefended weights to start from")] = None,
    passes: Annotated[int, typer.Option(min=1)] = 50_000,
    crop: Annotated[int, typer.Option(min=32)] = 96,
    learning_rate: Annotated[float, typer.Option(min=1e-8)] = 1e-3,
    ema: Annotated[float, typer.Option(min=0, max=0.99999)] = 0.99,
    attack: Annotated[list[str] | None, typer.Option(help="attacks; the worst counts")] = None,
    eps: Annotated[str, typer.Option()] = "2/255",
    limit: Annotated[int, typer.Option(min=2, help="images")] = 100,
    part: Annotated[str, typer.Option(help="K/N: every N-th recipe from the K-th on, for N processes")] = "",
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Train and attack each recipe, print and write the table."""
    if threads:
        use_threads(threads)
    schedule = Schedule(passes=passes, crop=crop, learning_rate=learning_rate, ema=ema)
    chosen = share([*(recipes or []), *(listed(list_) if list_ else [])], part)
    if not chosen:
        raise UserError("no recipe; name some, or a file with --list")
    table = out / f"search{'-' * bool(part)}{part.replace('/', 'of')}.csv"
    rows = []
    for row in Search(model, root, schedule, out, start, attack or ATTACKS, eps, limit).rows(chosen):
        rows.append(row)
        found = pd.DataFrame(rows)
        found.to_csv(table, index=False, float_format="%.4f")
        typer.echo(found.tail(1).to_string(index=False, header=len(rows) == 1, float_format="%.3f"))


if __name__ == "__main__":
    typer.run(main)
