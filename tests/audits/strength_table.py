"""Strength of the attacks relative to each other, on real weights: a table, and checks of it that can fail.

    IQARENA_DATA=DIR python -m tests.audits.strength_table --limit 8 --out runs/strength --page docs/strength.md

Models are the shipped ones and, where IQARENA_DATA names a folder with ``weights/nima_mobilenet_technical.safetensors``,
`nima-mobilenet`; images are the demo set's or, from ``kodak24/*.png`` in that folder, Kodak's. Cells run as in `iqarena
run` and are kept in ``--out``, from where a second run goes on. ``--page`` writes the table as a page. Exits with 1 where a
check or a cell fails.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.objective import Kind
from iqarena.attacks.whole_set import SetAttack
from iqarena.bench.cells import expand
from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import ImageDataset, Sample, read_image
from iqarena.bench.errors import UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.executors.progress import Reporter
from iqarena.bench.inference.loading import load_model
from iqarena.bench.registry import ATTACKS, parse_spec
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Suite, validated
from iqarena.models.base import QualityModel

NIMA, NIMA_WEIGHTS = "nima-mobilenet", Path("weights") / "nima_mobilenet_technical.safetensors"
SQUARE_QUERIES = 5000
BUDGETS = {
    **dict.fromkeys(("nes", "one-pixel", "parsimonious", "ran", "score-boundary", "simba", "spsa"), "[queries=200]"),
    **dict.fromkeys(("uap", "cumulative-uap"), "[epochs=3,restarts=2]"), "generative-uap": "[epochs=8,restarts=1]",
    "facpa": "[epochs=10]", "art:CarliniLInfMethod": "[max_iter=5]",
    "art:HopSkipJump": "[max_iter=2,max_eval=100,init_eval=20]", "art:SimBA": "[max_iter=200]",
    "art:SquareAttack": "[max_iter=200]", "torchattacks:SPSA": "[nb_iter=2]", "torchattacks:Square": "[n_queries=200]",
}  # fmt: skip
"""Searches except `square` have about 200 queries an image, and universal perturbations are fitted in a few epochs, so
that the table takes an hour or two; some of the libraries' searches would make a hundred thousand queries by default."""
BOTH: tuple[Kind, ...] = ("raise", "lower")


class Kodak(ImageDataset):
    """The images of the Kodak suite, each its own reference, without labels."""

    name = "kodak24"
    label_kind = "none"

    def __init__(self, root: Path) -> None:
        self.files = sorted((root / self.name).glob("*.png"))
        if not self.files:
            raise UserError(f"{root / self.name}: holds no *.png")
        self.samples = [Sample(file.stem, file.stem) for file in self.files]
        self.fingerprint = hashlib.sha256(b"".join(file.read_bytes() for file in self.files)).hexdigest()

    @classmethod
    def open(cls, root: Path | None) -> Kodak:
        if root is None:
            raise UserError("kodak24 needs IQARENA_DATA, a folder with kodak24/*.png in it")
        return cls(root)

    def image(self, index: int) -> torch.Tensor:
        return read_image(self.files[index])


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check, a line under the table; `held` is None where a check is not possible."""

    held: bool | None
    text: str

    def __str__(self) -> str:
        return f"{'not possible' if self.held is None else 'PASS' if self.held else 'FAIL':<12}  {self.text}"


class Table:
    """The summary rows of one image set."""

    def __init__(self, summary: pd.DataFrame) -> None:
        self.rows = summary.assign(shift=summary.abs_gain, srocc=summary.stability_srocc)

    def of(self, model: str, specs: list[str]) -> pd.DataFrame:
        """Return the rows of some attacks on a model that ended ok."""
        rows = self.rows
        return rows[(rows.model == model) & rows.attack.isin(specs) & (rows.status == "ok")]

    def shift(self, model: str, spec: str, objective: str) -> float | None:
        """Return the mean |quality shift|; None where there is none."""
        rows = self.of(model, [spec])
        shifts = rows[rows.objective == objective]["shift"]
        return float(shifts.iloc[0]) if len(shifts) else None

    def markdown(self, model: str) -> list[str]:
        """Return the rows of a model as a Markdown table, a line for each attack, the largest shift first."""
        lines = ["| attack | raised by | lowered by | away by | SROCC with clean, least | forwards | backwards |",
                 "|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
        own = self.rows[(self.rows.model == model) & (self.rows.status == "ok")]
        groups = sorted(own.groupby("attack"), key=lambda group: -group[1]["shift"].max())
        for attack, rows in groups:
            by = dict(zip(rows.objective, rows["shift"], strict=True))
            shifts = " | ".join(f"{by.pop(kind):.3f}" if kind in by else "" for kind in BOTH)
            others = ", ".join(f"{value:.3f}" for value in by.values())
            lines.append(
                f"| `{attack}` | {shifts} | {others} | {rows.srocc.min():+.2f} | "
                f"{rows.forwards_mean.max():,.0f} | {rows.backwards_mean.max():,.0f} |"
            )
        return lines

    def text(self) -> str:
        """Return the rows as text, for each model from the largest shift to the smallest."""
        rows = self.rows.sort_values(["model", "shift"], ascending=[True, False])
        shown = {
            "model": rows.model, "attack": rows.attack, "objective": rows.objective, "|shift|": rows["shift"],
            "SROCC": rows.srocc, "forwards": rows.forwards_mean, "backwards": rows.backwards_mean,
            "seconds": rows.seconds, "status": rows.status,
        }  # fmt: skip
        one, four = "{:.1f}".format, "{:.4f}".format
        digits = {"|shift|": four, "SROCC": four, "forwards": one, "backwards": one, "seconds": one}
        return str(pd.DataFrame(shown).to_string(index=False, formatters=digits))


def reason_missing(spec: str) -> str:
    """Return why an attack is not available; empty if it is."""
    try:
        ATTACKS.build(spec)
    except UserError as error:
        return str(error).partition(";")[0]
    return ""


def objectives_of(spec: str) -> list[Kind]:
    """Return both directions where the attack supports them, else its own objective."""
    supported = ATTACKS.build(spec).objectives
    return [kind for kind in BOTH if kind in supported] or [supported[0]]


def run(evaluator: Evaluator, specs: list[str], models: list[str], eps: str, records: Records) -> Table:
    """Run some attacks and return their rows, including those kept from earlier runs."""
    suite: Suite = validated(
        {"dataset": evaluator.dataset.name, "models": models, "defenses": ["none"],
         "threats": [{"norm": "linf", "eps": eps}],
         "settings": ["adaptive"], "attacks": [{"attack": spec, "objectives": objectives_of(spec)} for spec in specs]}
    )  # fmt: skip
    with Reporter() as report:
        outcome = local.run(evaluator, expand(suite), records, report)
        report.summary(outcome, records.folder)
    summary = records.summary()
    return Table(summary[summary.cell_id.isin(outcome.cell_ids)])


# --- checks


def compared(table: Table, models: list[str], left: str, factor: float, right: str) -> Iterator[Verdict]:
    """Check that the first attack's mean |quality shift| is at least `factor` times the second's, by model and direction."""
    sign = "≥" if factor == 1 else f"≥ {factor:g} ×"
    if missing := [spec for spec in (left, right) if reason_missing(spec)]:
        yield Verdict(None, f"{left} {sign} {right}: {'; '.join(reason_missing(spec) for spec in missing)}")
        return
    for model in models:
        for kind in BOTH:
            numbers = [table.shift(model, spec, kind) for spec in (left, right)]
            shown = [
                f"{spec} {'(no row)' if n is None else f'{n:.4f}'}" for spec, n in zip((left, right), numbers, strict=True)
            ]
            held = None if None in numbers else numbers[0] >= factor * numbers[1]  # type: ignore[operator]
            yield Verdict(held, f"{model} · {kind} · |shift| · {shown[0]} {sign} {shown[1]}")


def ensemble_beats_all(table: Table, models: list[str], ensemble: str, specs: list[str], column: str) -> Iterator[Verdict]:
    """Check that an ensemble's |shift| is at least, or its SROCC at most, that of every row of every other attack.

    Set-level attacks, which choose each image's target by all the others, are compared on a separate line.
    """
    sign, sign_of_better = ("≥", 1) if column == "shift" else ("≤", -1)
    if reason := reason_missing(ensemble):
        yield Verdict(None, f"{ensemble} {sign} every single attack: {reason}")
        return
    others = {spec: ATTACKS.build(spec) for spec in specs}
    kinds = {
        "single attacks": [s for s, a in others.items() if not isinstance(a, Ensemble | SetAttack)],
        "set-level attacks": [s for s, a in others.items() if isinstance(a, SetAttack)],
    }
    for model in models:
        own = table.of(model, [ensemble])[column]
        for name, rivals in kinds.items():
            rows = table.of(model, rivals)
            where = f"{model} · {column} · {ensemble}"
            if not len(own) or not len(rows):
                yield Verdict(None, f"{where} {sign} {name}: no {'row of its own' if not len(own) else 'such row'}")
                continue
            rows = rows.iloc[(sign_of_better * rows[column]).argsort()[::-1]]
            stronger = rows[sign_of_better * rows[column] > sign_of_better * float(own.iloc[0])]
            shown = stronger if len(stronger) else rows.head(1)
            listed = ", ".join(f"{r['attack']} ({r['objective']}) {r[column]:.4f}" for _, r in shown.iterrows())
            text = f"{where} {float(own.iloc[0]):.4f} {sign} {len(rows)} rows of {name}"
            yield Verdict(not len(stronger), f"{text}, {'stronger: ' if len(stronger) else 'the strongest '}{listed}")


def cells_ended_well(table: Table) -> Iterator[Verdict]:
    """Yield a failed verdict for each cell that did not end ok."""
    for _, row in table.rows[table.rows.status != "ok"].iterrows():
        yield Verdict(False, f"{row.model} · {row.attack} · {row.objective} ended {row.status}")


# --- command line


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--models", nargs="+", help="resnet-iqa, cnniqa, and nima-mobilenet where its weights are")
    parser.add_argument("--attacks", nargs="+", help="specs such as apgd[steps=50]; all that support linf if left out")
    parser.add_argument("--dataset", choices=("demo", "kodak24"), default="demo")
    parser.add_argument("--limit", type=int, default=12, help="images (12)")
    parser.add_argument("--square-limit", type=int, default=8, help=f"images for {SQUARE_QUERIES} queries each (8)")
    parser.add_argument("--eps", default="4/255", help="ball (4/255)")
    parser.add_argument(
        "--steps", type=int, default=20, help="of pgd, torchattacks:PGD and apgd where they are compared (20)"
    )
    parser.add_argument("--batch", type=int, default=8, help="images at once (8)")
    parser.add_argument("--out", type=Path, help="folder that keeps the cells and resumes; a temporary one if left out")
    parser.add_argument("--page", type=Path, help="Markdown file to write, such as docs/strength.md")
    return parser.parse_args()


def open_models(wanted: list[str] | None, root: Path | None) -> tuple[list[str], dict[str, QualityModel]]:
    """Return the names of models, and those models that the registry cannot build from their name alone."""
    weights = root / NIMA_WEIGHTS if root else None
    available = weights is not None and weights.is_file()
    names = wanted or ["resnet-iqa", "cnniqa", *([NIMA] if available else [])]
    if NIMA not in names:
        return names, {}
    if not available:
        raise UserError(f"{NIMA} needs IQARENA_DATA, a folder with {NIMA_WEIGHTS} in it")
    return names, {NIMA: load_model(f"{NIMA}[weights={weights}]")}


def strength(options: argparse.Namespace, records: Records) -> list[Verdict]:
    """Run what is missing, print the table and return the verdicts."""
    root = Path(os.environ["IQARENA_DATA"]) if os.environ.get("IQARENA_DATA") else None
    models, extra = open_models(options.models, root)
    dataset = Kodak.open(root) if options.dataset == "kodak24" else open_dataset("demo")
    asked = options.attacks or [name + BUDGETS.get(name, "") for name in ATTACKS.names()]
    missing = {spec: reason for spec in asked if (reason := reason_missing(spec))}
    specs = [spec for spec in asked if spec not in missing and "linf" in ATTACKS.build(spec).norms]

    def wanted(*names: str) -> bool:
        return options.attacks is None or set(names) <= {parse_spec(spec)[0] for spec in options.attacks}

    eps = validated({"models": models, "attacks": specs, "threats": [{"eps": options.eps}]}).threats[0].eps
    # all from the clean image: between random starts, chance moves a mean over few images by a few percent
    pgd, apgd = f"pgd[steps={options.steps},step_size=0.25,random_start=false]", f"apgd[steps={options.steps},restarts=1]"
    library = f"torchattacks:PGD[steps={options.steps},alpha={eps / 4:.6g},random_start=false]"
    square, control = f"square[queries={SQUARE_QUERIES}]", "random-sign"
    pairs = [(pgd, 0.99, library), (apgd, 1.0, pgd), ("apgd", 1.0, "pgd")]
    pairs = [pair for pair in pairs if wanted(parse_spec(pair[0])[0], parse_spec(pair[2])[0])]
    extra_specs = [spec for left, _, right in pairs for spec in (left, right) if not reason_missing(spec)]

    evaluator = Evaluator(dataset, options.limit, options.batch, extra)
    table = run(evaluator, list(dict.fromkeys([*specs, *extra_specs])), models, options.eps, records)
    tables = [table]
    verdicts = [verdict for left, factor, right in pairs for verdict in compared(table, models, left, factor, right)]
    for ensemble, column in (("standard", "shift"), ("standard-rank", "srocc")):
        if wanted(ensemble):
            verdicts += ensemble_beats_all(table, models, ensemble, specs, column)
    if wanted("square", control):
        specs_of_square = [spec for spec in (square, control) if not reason_missing(spec)]
        small = Evaluator(dataset, options.square_limit, options.batch, extra)
        tables.append(run(small, specs_of_square, models, options.eps, records))
        verdicts += compared(tables[-1], models, square, 3.0, control)

    for one in tables:
        print(f"\n{dataset.name}, {int(one.rows.n_images.max())} images, linf {options.eps}, one thread\n{one.text()}")
        verdicts += cells_ended_well(one)
    print("\nSROCC is that of clean with attacked quality; forwards include the clean score.")
    for spec, reason in missing.items():
        print(f"missing: {spec} ({reason})")
    if options.page:
        options.page.write_text(page(options, dataset, tables, missing, verdicts), encoding="utf-8")
    return verdicts


def page(
    options: argparse.Namespace, dataset: ImageDataset, tables: list[Table], missing: dict[str, str], verdicts: list[Verdict]
) -> str:
    """Return the tables and the verdicts in Markdown."""
    args = ["python", "-m", "tests.audits.strength_table"]
    args += [] if options.dataset == "demo" else ["--dataset", options.dataset]
    args += [] if options.models is None else ["--models", *options.models]
    args += [] if options.attacks is None else ["--attacks", *options.attacks]
    args += ["--limit", str(options.limit), "--square-limit", str(options.square_limit), "--page", str(options.page)]
    lines = [
        "# Strength of the attacks", "",
        f"Every attack that supports ℓ∞, on undefended models, at ε = {options.eps}. The tables show the mean |shift| of",
        "quality over the images, on the model's own scale of 0 to 1: where the attack is to raise quality, where it is to",
        "lower it, and, for an attack that can do neither, under its own objective (*away by*). They also show the SROCC of",
        "attacked with clean qualities, the lowest of these rows. As in any cell, images are scored as they are stored in",
        "8 bit, inside the threat model. Budgets are the defaults, except for searches and fitted attacks, which have a few",
        "hundred queries or a few epochs, as their names say.", "",
        f"`{shlex.join(args)}`, with $IQARENA_DATA for `{NIMA}`: {options.limit} images of `{dataset.name}`.", "",
        "## Checks", "",
        "The SROCC of a set is not minimised image by image: an attack on the whole set, which sees all images before it",
        "chooses their aims, may reach a lower one than `standard-rank`. The leaderboard takes the minimum over both.", "",
        "| | |", "|---|---|",
        *(f"| {'✓' if v.held else 'not possible' if v.held is None else '**no**'} | {v.text.replace('|', '∣')} |"
          for v in verdicts), "",
    ]  # fmt: skip
    for model in dict.fromkeys(tables[0].rows.model):
        lines += [f"## {model.partition('[')[0]}", "", *tables[0].markdown(model), ""]
    for table in tables[1:]:
        lines += [f"## {int(table.rows.n_images.max())} images, {SQUARE_QUERIES:,} queries", ""]
        for model in dict.fromkeys(table.rows.model):
            lines += [f"{model.partition('[')[0]}:", "", *table.markdown(model), ""]
    lines += [f"Not there: {'; '.join(missing.values())}.", ""] if missing else []
    return "\n".join(lines)


def main() -> int:
    options = parsed()
    torch.set_num_threads(1)
    scratch: Any = tempfile.TemporaryDirectory()
    try:
        with scratch as folder:
            verdicts = strength(options, Records(options.out or Path(folder)))
    except UserError as error:
        print(f"strength_table: {error}", file=sys.stderr)
        return 2
    print(*verdicts, sep="\n")
    return int(any(verdict.held is False for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
