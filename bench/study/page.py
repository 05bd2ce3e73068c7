"""docs/cprl.md, from the records and from the table of the search."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from iqarena.bench.errors import UserError
from iqarena.bench.metrics.bootstrap import interval
from iqarena.bench.registry import DEFENSES
from iqarena.bench.results.formatting import format_eps as written
from iqarena.bench.results.formatting import format_interval, format_number
from iqarena.bench.study.numbers import Findings, Size, frame
from iqarena.bench.study.plots import draw
from iqarena.bench.study.variants import MODEL, SCHEDULE, SEEDS, VARIANTS, Variant
from iqarena.bench.study.verdict import COST, GAIN, KINDS, kinds, p_of, terms, verdict

INTRO = """\
# CPRL, put to the test

CPRL here is **our reconstruction from the abstracts** of [arXiv 2404.19567](https://arxiv.org/abs/2404.19567) and of
its journal version ([Displays 88, 103046](https://doi.org/10.1016/j.displa.2025.103046)), and so is the
score-reflection attack: no equation, setting or table of the papers was at hand. What is found here is about that
reconstruction, not about the authors' work. [defenses.md](defenses.md) has its formulas.

The question: is a model that learns by CPRL more robust than one that learns by plain adversarial training at the
same cost? The aim was set before: robust SROCC higher by {gain} at no more than {cost} clean SROCC lost, the interval
clear of zero, at the size of attack where adversarial training keeps about half of its clean SROCC.

This page is written by `python -m iqarena.bench.study page` from records; [the numbers behind it](cprl/cells.csv) have a row
for every variant, seed, size and attack."""

COMPARED = """\
`{model}`, trained under each recipe with {seeds} seeds, all from the same undefended weights, with {passes:,}
*passes* each: a pass is one forward and backward of one image, whether it serves the weights or the inner attack
([weights.md](weights.md)). So a recipe that costs less an image sees more images."""

READ = """\
**Robust SROCC** is the least over the attacks that every run met at that size, and over a variant's own surrogates;
of each run and in every resample anew, then the mean over seeds. Intervals are 95 %, from a bootstrap over reference
images and over seeds. Differences are on the same images; p is of no difference, two-sided, corrected by Holm's
method for all lines of a table."""

AGAIN = """\
## Again

The weights that are not in the zoo are in [results/cprl/weights](../results/cprl/weights), and the records of all that is
on this page in [results/cprl](../results/cprl). To attack them once more:

```sh
export IQARENA_WEIGHTS=results/cprl/weights
iqarena run cprl --out RESULTS
python -m iqarena.bench.study page --results RESULTS
```

To train them once more, and to search as we did:

```sh
python -m iqarena.bench.study.search {model} --list bench/study/candidates.txt --root TRAIN --start START/{model}.safetensors \\
    --passes 50000 --out SEARCH
python -m iqarena.bench.study train --root TRAIN --start START/{model}.safetensors --out WEIGHTS
export IQARENA_WEIGHTS=WEIGHTS
iqarena run cprl --out RESULTS
python -m iqarena.bench.study page --results RESULTS --search SEARCH/search.csv
```

The demo set has six reference images, and labels that are computed. `tid2013-reconstructed`
([its page](tid2013-reconstructed.md)) has 24, and labels by people; who has it can run the first section on it into the
same folder, of one seed or of all:

```sh
python -m iqarena.bench.study suite core --seed 0 > core.yaml
iqarena run core.yaml --dataset tid2013-reconstructed --root DATA --eps 2/255 --limit 48 --out RESULTS
```

TRAIN and START are those of [weights.md](weights.md). [bench/suites/cprl.yaml](../bench/suites/cprl.yaml) says what a
section costs, and [bench/study/variants.py](../bench/study/variants.py) has the variants. `iqarena explain` shows
what a trained model keeps of an image."""


def write(found: Sequence[Findings], search: Path | None, docs: Path) -> Iterator[Path]:
    """Write cprl.md, and the folder cprl with plots, numbers and the table of the search.

    Args:
        found: what the records say.
        search: what `iqarena.bench.study.search` left; what is in the folder already where it is left out.
        docs: where they go.

    Raises:
        UserError: where something cannot be read or written.
    """
    folder = docs / "cprl"
    kept = folder / "search.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if search is not None:
            kept.write_bytes(search.read_bytes())
        frame(found).to_csv(folder / "cells.csv", index=False, float_format="%.4f")
        for one in found:
            yield from draw(one, one.main, folder)
        (docs / "cprl.md").write_text(page(found, pd.read_csv(kept) if kept.is_file() else None), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename or docs}: {error.strerror}") from None
    yield docs / "cprl.md"


def page(found: Sequence[Findings], search: pd.DataFrame | None) -> str:
    """The text."""
    parts = [INTRO.format(gain=GAIN, cost=COST), "## Verdict"]
    parts += [
        f"On *{one.dataset}*, labels: {one.label_kind}. {verdict(one)}" if len(found) > 1 else verdict(one) for one in found
    ]
    parts += ["## What was compared", COMPARED.format(model=MODEL, seeds=len(SEEDS), passes=SCHEDULE.passes)]
    parts += [_variants(found), READ]
    for one in found:
        parts += _section(one)
    if search is not None:
        parts += _search(search)
    return "\n\n".join([*parts, AGAIN.format(model=MODEL)]) + "\n"


def _section(found: Findings) -> list[str]:
    size = found.main
    base, own = found.find("baseline"), found.find("cprl")
    where = f"{found.dataset}, {written('linf', size.eps)}"
    parts = [
        f"## {where}",
        f"{found.images} images of {found.references} references, labels: {found.label_kind}. "
        f"{len(size.common)} attacks that all met: {'; '.join(map(str, sorted(size.common)))}.",
    ]
    if size.left_out:
        names = ", ".join(f"{variant.name} (seed {seed})" for variant, seed in size.left_out)
        parts.append(f"Left out, because attacks are missing: {names}.")
    parts += [_image("robust", found, "Clean and robust SROCC of every variant"), _results(size, base)]
    if len(found.sizes) > 1:
        parts += [f"### {found.dataset}, every size", _sizes(found), _image("curves", found, "Robust SROCC by size")]
    if own is not None and own in size.variants and terms(size, own):
        parts += [f"### {found.dataset}, what each term of CPRL does", _terms(size, own)]
    parts += [f"### {found.dataset}, is a gradient hidden?", _hidden(size)]
    strong = _strong(size)
    if strong:
        parts += [f"### {found.dataset}, everything that was tried", strong]
    return [*parts, _image("attacks", found, "SROCC of every variant after each attack")]


def _image(name: str, found: Findings, alt: str) -> str:
    stem = f"cprl/{name}-{found.dataset}"
    return f"[![{alt}]({stem}.png)]({stem}.svg)"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; columns of numbers to the right."""
    body = [list(row) for row in rows]
    numbers = [all(re.match(r"[−–\d*]|p |$", row[column]) for row in body) for column in range(len(heads))]
    lines = [list(heads), ["--:" if right else "---" for right in numbers], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _variants(found: Sequence[Findings]) -> str:
    there = dict.fromkeys(variant for one in found for size in one.sizes for variant in size.variants)
    rows = []
    for variant in there:
        recipe = DEFENSES.build(variant.recipe)
        rows.append((variant.name, f"`{variant.recipe}`", str(getattr(recipe, "passes_an_image", 1))))
    text = table(["variant", "recipe", "passes an image"], rows)
    if lacking := [f"{variant.name} (`{variant.recipe}`)" for variant in VARIANTS if variant not in there]:
        text += (
            f"\n\nPlanned and not here yet: {'; '.join(lacking)}. `python -m iqarena.bench.study suite --at-hand` prints the suite "
            "of what is trained."
        )
    return text


def _results(size: Size, base: Variant | None) -> str:
    heads = ["variant", "seeds", "clean SROCC", "robust SROCC", "least by", "mean \\|shift\\|"]
    compared = base is not None and base in size.variants
    robust = size.against(base, size.variants, size.robust) if compared and base else {}
    clean = size.against(base, size.variants, size.clean) if compared and base else {}
    if compared and base:
        heads += [f"robust, less {base.name}", "p", f"clean, less {base.name}", "p"]
    rows = []
    for variant in sorted(size.variants, key=lambda variant: -float(size.robust(variant)[0])):
        row = [
            variant.name,
            str(len(size.of(variant))),
            format_interval(interval(size.clean(variant))),
            f"**{format_number(float(size.robust(variant)[0]))}** {format_interval(interval(size.robust(variant))).partition(' ')[2]}",
            size.worst(variant),
            format_number(size.shift(variant)),
        ]
        for difference in (robust.get(variant.name), clean.get(variant.name)) if compared else ():
            row += [format_interval(difference.value), p_of(difference.p)] if difference else ["", ""]
        rows.append(row)
    return table(heads, rows)


def _sizes(found: Findings) -> str:
    heads = ["variant", "clean", *(written("linf", size.eps) for size in found.sizes)]
    rows = []
    for variant in dict.fromkeys(variant for size in found.sizes for variant in size.variants):
        there = [size for size in found.sizes if variant in size.variants]
        row = [variant.name, format_number(float(there[0].clean(variant)[0]))]
        row += [format_interval(interval(size.robust(variant))) if size in there else "–" for size in found.sizes]
        rows.append(row)
    attacks = ", ".join(f"{len(size.common)} at {written('linf', size.eps)}" for size in found.sizes)
    return f"Attacks that count: {attacks}.\n\n{table(heads, rows)}"


def _terms(size: Size, own: Variant) -> str:
    rows = [
        (variant.name, format_interval(robust.value), p_of(robust.p), format_interval(clean.value), p_of(clean.p))
        for variant, (robust, clean) in terms(size, own).items()
    ]
    return table(["variant", f"robust, less {own.name}", "p", f"clean, less {own.name}", "p"], rows)


def _hidden(size: Size) -> str:
    columns = ("exact gradient", *KINDS)
    rows = []
    for variant in (variant for variant in size.variants if variant.role != "none"):
        found = [kinds(run, size.common) for run in size.of(variant)]
        means = [[one[kind] for one in found if kind in one] for kind in columns]
        rows.append([variant.name, *(format_number(float(np.mean(values))) if values else "–" for values in means)])
    words = (
        "The least SROCC by what the attacker goes by, mean over the seeds that met it. Where a column to the right is "
        "lower than the first, the gradient hides something. Transfer is from the undefended twin."
    )
    return f"{words}\n\n{table(['variant', *columns], rows)}"


def _strong(size: Size) -> str:
    rows = []
    for variant in size.variants:
        for run in size.of(variant):
            if run.met_more(size.common):
                least, by = run.least
                counted = float(run.robust(size.common)[0])
                rows.append(
                    [
                        f"{variant.name}, seed {run.seed}",
                        str(len(run.attacked)),
                        format_number(counted),
                        format_number(least),
                        str(by),
                    ]
                )
    if not rows:
        return ""
    heads = ["run", "attacks", "least of those that all met", "least of everything", "by"]
    return f"Runs that met more attacks than the others did:\n\n{table(heads, rows)}"


_SHOWN = ["recipe", "clean SROCC", "robust SROCC", "largest mean |shift|"]
"""Of the table of the search."""


def _search(found: pd.DataFrame) -> list[str]:
    passes, images = int(found.passes.iloc[0]), int(found.images.iloc[0])
    words = (
        f"By `iqarena.bench.study.search`, on {images} images of the validation part of the training references, never on the "
        f"images of a board: each recipe was trained once with {passes:,} passes and one seed, then attacked through "
        "the defense at 2/255 by two gradient attacks. One seed and a part of the budget: small differences mean nothing. "
        "Ideas of ours beyond the abstracts are among them; all that were tried are here."
    )
    rows = [
        (f"`{recipe}`", *map(format_number, numbers))
        for recipe, *numbers in found.sort_values("robust SROCC", ascending=False)[_SHOWN].itertuples(index=False)
    ]
    return ["## The search", words, table(["recipe", "clean SROCC", "robust SROCC", "mean \\|shift\\|"], rows)]
