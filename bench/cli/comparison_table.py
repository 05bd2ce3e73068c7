"""`iqarena compare`: comparisons as text, tables and plots."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.plots.compare import comparison_figure
from iqarena.bench.leaderboard.plots.effort import defense_aware_curves, effort
from iqarena.bench.leaderboard.plots.letters import draw as draw_letters
from iqarena.bench.leaderboard.plots.style import styled
from iqarena.bench.results.comparison import MEASURES, WORST, Comparison, Measure, frame, matches_spec
from iqarena.bench.results.formatting import format_interval, format_number, short_spec
from iqarena.bench.results.ranking import FEW_REFERENCES
from iqarena.bench.terminal import text_table

MAX_SLUG = 100
"""Largest number of characters of a part of a file name, which has 255 bytes at most."""
HOW_TO_READ = """\
SROCC is the rank correlation with the labels: 1 is the right order, 0 none, −1 the reverse. Mean |shift| is how far quality
moves on a scale of 1. Brackets are 95 % intervals of a bootstrap over reference images, the same for both. p is the chance
of a difference at least as large if there were none, corrected by Holm for all lines of the table; below 0.05 the last
column says which is the better one."""
TITLES: dict[Measure, str] = {"srocc": "SROCC", "shift": "mean |shift|"}


def print_comparisons(comparisons: Iterable[Comparison], console: Console) -> None:
    """Print each comparison: a headline, two tables and notes."""
    for comparison in comparisons:
        a, b = map(short_spec, comparison.names)
        console.print(Text(f"A is {a}, B is {b} · {comparison.title}", style="bold"))
        console.print(Text(headline(comparison)))
        for measure in MEASURES:
            console.print()
            console.print(_table(comparison, measure))
        console.print()
        for note in notes(comparison):
            console.print(Text(f"• {note}"))
        console.print()
    console.print(Text(" ".join(HOW_TO_READ.split()), style="dim"))


def _table(comparison: Comparison, measure: Measure) -> Table:
    """Return the table of one measure; A and B stand for the names, which may be too long for a terminal."""
    winner = "stronger" if comparison.kind == "attack" else "holds better"
    columns = [
        Column("after" if comparison.kind == "defense" else "on", overflow="fold"),
        *(Column(name, justify="right", no_wrap=True) for name in ("A", "B", "B − A", "p")),
        Column(winner, justify="center", no_wrap=True),
    ]
    rows = []
    for row in comparison.rows[measure]:
        values = [format_number(value[0]) for value in row.values]
        better = "AB"[index] if (index := comparison.winner(measure, row)) is not None else ""
        rows.append([row.condition, *values, format_interval(row.difference), _p(row.p), better])
    return text_table(columns, rows, title=TITLES[measure], title_justify="left", title_style="italic")


def _p(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def write(comparisons: Sequence[Comparison], out: Path, curves: pd.DataFrame | None = None) -> list[Path]:
    """Write all comparisons into one CSV file and a PNG each; for attacks also a plot of their effect over their passes.

    Args:
        comparisons: at least one comparison.
        out: output folder.
        curves: curves of the same results folder, see `iqarena.bench.results.curves.effort_curves`.

    Raises:
        UserError: where the files cannot be written.
    """
    pair = _slug("-".join(comparisons[0].names))
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"compare-{pair}.csv"]
        frame(comparisons).to_csv(paths[0], index=False, errors="backslashreplace")
        for comparison in comparisons:
            dataset, label_kind, norm, eps, _ = comparison.track
            context = short_spec(comparison.context) if comparison.context else ""
            parts = [context, dataset, comparison.label, label_kind, norm, f"{eps:.6f}"]
            suffix = _slug("-".join(filter(None, parts)))
            paths.append(_save(partial(comparison_figure, comparison), out / f"compare-{pair}-{suffix}.png"))
            shown = _curves(comparison, curves) if curves is not None and comparison.kind == "attack" else pd.DataFrame()
            if len(shown):
                draw = partial(effort, shown, "How far the attacks come, and how fast", comparison.title)
                paths.append(_save(draw, out / f"effort-{pair}-{suffix}.png"))
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written ({error.strerror}); choose another --out") from None
    return paths


def _curves(comparison: Comparison, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of the two attacks on the track of the comparison, for attackers that know the defense."""
    attacks = [attack for attack in curves.attack.unique() if any(matches_spec(name, attack) for name in comparison.names)]
    track = (
        (curves.dataset == comparison.track.dataset)
        & (curves.norm == comparison.track.norm)
        & (curves.eps == comparison.track.eps)
    )
    if "fingerprint" in curves:
        track &= curves.fingerprint == comparison.track.fingerprint
    return defense_aware_curves(curves[track & curves.attack.isin(attacks)])


def _save(draw: Callable[[], Figure], path: Path) -> Path:
    with styled():
        figure = draw_letters(draw)
        assert figure is not None
        figure.savefig(path, metadata={"Software": None})
    return path


def _slug(text: str) -> str:
    slug = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
    if len(slug) <= MAX_SLUG:
        return slug
    return f"{slug[:MAX_SLUG]}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"


def headline(comparison: Comparison) -> str:
    """Return the outcome in one or two sentences."""
    a, b = (short_spec(name) for name in comparison.names)
    what = (
        f"SROCC with the {comparison.track.label_kind} labels"
        if comparison.track.labelled
        else "SROCC with the clean qualities"
    )
    if comparison.kind == "attack":
        counts = [sum(comparison.better("srocc", row) == name for row in comparison.rows["srocc"]) for name in (a, b)]
        return (
            f"Of {len(comparison.rows['srocc'])} targets, {a} leaves less {what} on {counts[0]}, {b} on {counts[1]}; "
            "on the others they are not told apart."
        )
    by_condition = {row.condition: row for row in comparison.rows["srocc"]}
    worst = next((row for row in comparison.rows["srocc"] if row.condition.startswith(WORST)), comparison.rows["srocc"][-1])
    first, second = (format_interval(values) for values in worst.values)
    better = comparison.better("srocc", worst)
    verdict = f"{better} holds better" if better else "the two are not told apart"
    text = f"{worst.condition[0].upper()}{worst.condition[1:]}: {what} {first} with {a}, {second} with {b}; {verdict}."
    clean = by_condition.get("no attack")
    if clean:
        first, second = (format_number(value[0]) for value in clean.values)
        text += f" Without any attack: {first} with {a}, {second} with {b}."
    return text


def notes(comparison: Comparison) -> list[str]:
    """Return notes on seeds, few reference images, missing counterparts and flags."""
    texts = []
    for name, count in zip(comparison.names, comparison.seeds, strict=True):
        if count > 1:
            texts.append(f"{short_spec(name)}: means over {count} trainings, which the intervals resample too.")
    if comparison.references < FEW_REFERENCES:
        texts.append(f"Only {comparison.references} reference images: intervals and p values are rough.")
    if comparison.unmatched:
        texts.append(f"Not compared, because not both were run with it: {'; '.join(comparison.unmatched)}.")
    for name, flags in zip(comparison.names, comparison.flags, strict=True):
        texts += [f"Flag of {short_spec(name)}, see docs/flags.md: {flag}." for flag in flags]
    return texts
