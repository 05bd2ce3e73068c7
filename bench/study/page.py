"""The page docs/cprl.md: the values of its template ``cprl.md.j2``, from the records and the table of the search."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from iqarena.bench.errors import UserError
from iqarena.bench.metrics.bootstrap import interval
from iqarena.bench.registry import DEFENSES
from iqarena.bench.results.formatting import format_eps, format_interval, format_number
from iqarena.bench.study.numbers import Findings, Size, frame
from iqarena.bench.study.plots import draw
from iqarena.bench.study.variants import MODEL, SCHEDULE, SEEDS, VARIANTS, Variant
from iqarena.bench.study.verdict import COST, GAIN, KINDS, format_p, least_by_kind, terms, verdict
from iqarena.bench.templates import render_markdown

TEMPLATE = Path(__file__).with_name("cprl.md.j2")

Table = list[list[str]]
"""Lines of cells: headings, alignments, then the rows; empty where there are none."""


@dataclass(frozen=True)
class Section:
    """The values of the section of one data set.

    Attributes:
        size: the main size of the attack.
        results: all variants at the main size.
        sizes: robust SROCC of all variants at every size.
        ablations: differences of CPRL without one of its terms to CPRL.
        gradients: least SROCC of all variants by what the attack uses.
        extra_attacks: runs on which more attacks were run than on others.
    """

    findings: Findings
    size: Size
    results: Table
    sizes: Table
    ablations: Table
    gradients: Table
    extra_attacks: Table


def write(all_findings: Sequence[Findings], search: Path | None, docs: Path) -> Iterator[Path]:
    """Write cprl.md, and the folder cprl with plots, numbers and the table of the search.

    Args:
        all_findings: results of the study, one for each data set.
        search: table of `iqarena.bench.study.search`; the one in the folder cprl if left out.
        docs: folder to write to.

    Raises:
        UserError: if a file cannot be read or written.
    """
    folder = docs / "cprl"
    kept = folder / "search.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if search is not None:
            kept.write_bytes(search.read_bytes())
        frame(all_findings).to_csv(folder / "cells.csv", index=False, float_format="%.4f")
        for findings in all_findings:
            yield from draw(findings, findings.main, folder)
        text = page(all_findings, pd.read_csv(kept) if kept.is_file() else None)
        (docs / "cprl.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename or docs}: {error.strerror}") from None
    yield docs / "cprl.md"


def page(all_findings: Sequence[Findings], search: pd.DataFrame | None) -> str:
    """Render the page; without the table of the search it has no section on it."""
    variants = list(dict.fromkeys(variant for one in all_findings for size in one.sizes for variant in size.variants))
    return render_markdown(
        TEMPLATE,
        {"eps": lambda eps: format_eps("linf", eps)},
        gain=GAIN,
        cost=COST,
        verdicts=[(findings, verdict(findings)) for findings in all_findings],
        model=MODEL,
        seeds=len(SEEDS),
        passes=SCHEDULE.passes,
        variants=_variants(variants),
        planned=[variant for variant in VARIANTS if variant not in variants],
        sections=[_section(findings) for findings in all_findings],
        search=search,
        recipes=_recipes(search) if search is not None else [],
    )


def _section(findings: Findings) -> Section:
    size, cprl = findings.main, findings.find("cprl")
    return Section(
        findings,
        size,
        _results(size, findings.find("baseline")),
        _sizes(findings) if len(findings.sizes) > 1 else [],
        _ablations(size, cprl) if cprl is not None and cprl in size.variants else [],
        _gradients(size),
        _extra_attacks(size),
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return lines of cells, with columns of numbers aligned to the right; nothing without rows."""
    body = [list(row) for row in rows]
    numeric = [all(re.match(r"[−–\d*]|p |$", row[column]) for row in body) for column in range(len(headings))]
    return [list(headings), ["--:" if right else "---" for right in numeric], *body] if body else []


def _variants(variants: Iterable[Variant]) -> Table:
    rows = []
    for variant in variants:
        recipe = DEFENSES.build(variant.recipe)
        rows.append((variant.name, f"`{variant.recipe}`", str(getattr(recipe, "passes_an_image", 1))))
    return _table(["variant", "recipe", "passes an image"], rows)


def _results(size: Size, base: Variant | None) -> Table:
    headings = ["variant", "seeds", "clean SROCC", "robust SROCC", "least by", "mean \\|shift\\|"]
    differences = []
    if base is not None and base in size.variants:
        differences = [size.against(base, size.variants, measure) for measure in (size.robust, size.clean)]
        headings += [f"robust, less {base.name}", "p", f"clean, less {base.name}", "p"]
    rows = []
    for variant in sorted(size.variants, key=lambda variant: -float(size.robust(variant)[0])):
        robust = interval(size.robust(variant))
        row = [
            variant.name,
            str(len(size.of(variant))),
            format_interval(interval(size.clean(variant))),
            f"**{format_number(robust[0])}** {format_interval(robust, False)}",
            size.worst(variant),
            format_number(size.shift(variant)),
        ]
        for by_name in differences:
            difference = by_name.get(variant.name)
            row += [format_interval(difference.value), format_p(difference.p)] if difference else ["", ""]
        rows.append(row)
    return _table(headings, rows)


def _sizes(findings: Findings) -> Table:
    headings = ["variant", "clean", *(format_eps("linf", size.eps) for size in findings.sizes)]
    rows = []
    for variant in dict.fromkeys(variant for size in findings.sizes for variant in size.variants):
        sizes = [size for size in findings.sizes if variant in size.variants]
        row = [variant.name, format_number(float(sizes[0].clean(variant)[0]))]
        row += [format_interval(interval(size.robust(variant))) if size in sizes else "–" for size in findings.sizes]
        rows.append(row)
    return _table(headings, rows)


def _ablations(size: Size, cprl: Variant) -> Table:
    rows = [
        (variant.name, format_interval(robust.value), format_p(robust.p), format_interval(clean.value), format_p(clean.p))
        for variant, (robust, clean) in terms(size, cprl).items()
    ]
    return _table(["variant", f"robust, less {cprl.name}", "p", f"clean, less {cprl.name}", "p"], rows)


def _gradients(size: Size) -> Table:
    columns = ("exact gradient", *KINDS)
    rows = []
    for variant in (variant for variant in size.variants if variant.role != "none"):
        runs = [least_by_kind(run, size.common) for run in size.of(variant)]
        values = [[run[kind] for run in runs if kind in run] for kind in columns]
        rows.append([variant.name, *(format_number(float(np.mean(column))) if column else "–" for column in values)])
    return _table(["variant", *columns], rows)


def _extra_attacks(size: Size) -> Table:
    rows = []
    for run in (run for variant in size.variants for run in size.of(variant) if run.has_extra_attacks(size.common)):
        least, case = run.least
        counted = float(run.robust(size.common)[0])
        name = f"{run.variant.name}, seed {run.seed}"
        rows.append([name, str(len(run.attacked)), format_number(counted), format_number(least), str(case)])
    return _table(["run", "attacks", "least of those that all met", "least of everything", "by"], rows)


def _recipes(search: pd.DataFrame) -> Table:
    columns = ["recipe", "clean SROCC", "robust SROCC", "largest mean |shift|"]
    rows = [
        (f"`{recipe}`", *map(format_number, numbers))
        for recipe, *numbers in search.sort_values("robust SROCC", ascending=False)[columns].itertuples(index=False)
    ]
    return _table(["recipe", "clean SROCC", "robust SROCC", "mean \\|shift\\|"], rows)
