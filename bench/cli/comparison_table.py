"""`iqarena compare`: what came out of a comparison, in words, tables and plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.plots.compare import compared
from iqarena.bench.leaderboard.plots.effort import effort, knowing
from iqarena.bench.leaderboard.plots.style import styled
from iqarena.bench.results.comparison import MEASURES, WORST, Comparison, Measure, frame, same
from iqarena.bench.results.formatting import format_interval, format_number, short_spec
from iqarena.bench.results.ranking import FEW_REFERENCES

HOW_TO_READ = """\
SROCC is the rank correlation with the labels: 1 is the right order, 0 none, −1 the reverse. Mean |shift| is how far quality
moves on a scale of 1. Brackets are 95 % intervals of a bootstrap over reference images, the same for both. p is the chance
of a difference at least as large if there were none, corrected by Holm for all lines of the table; below 0.05 the last
column says which is the better one."""
TITLES: dict[Measure, str] = {"srocc": "SROCC", "shift": "mean |shift|"}


def tell(duels: Iterable[Comparison], console: Console) -> None:
    """Print every comparison: the outcome in a sentence, two tables, and what to bear in mind."""
    for duel in duels:
        a, b = map(short_spec, duel.names)
        console.print(Text(f"A is {a}, B is {b} · {duel.title}", style="bold"))
        console.print(Text(headline(duel)))
        for measure in MEASURES:
            console.print()
            console.print(_table(duel, measure))
        console.print()
        for note in notes(duel):
            console.print(Text(f"• {note}"))
        console.print()
    console.print(Text(" ".join(HOW_TO_READ.split()), style="dim"))


def _table(duel: Comparison, measure: Measure) -> Table:
    """One measure's table; A and B stand for names that would not fit a terminal beside the numbers."""
    winner = "stronger" if duel.kind == "attack" else "holds better"
    table = Table(title=TITLES[measure], title_justify="left", box=None, pad_edge=False, title_style="italic")
    table.add_column("after" if duel.kind == "defense" else "on", overflow="fold")
    for name in ("A", "B", "B − A", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(winner, justify="center", no_wrap=True)
    for line in duel.lines[measure]:
        values = [Text(format_number(value[0])) for value in line.values]
        better = "AB"[place] if (place := duel.winner(measure, line)) is not None else ""
        table.add_row(Text(line.what), *values, Text(format_interval(line.difference)), Text(_p(line.p)), Text(better))
    return table


def _p(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def write(duels: Sequence[Comparison], out: Path, curves: pd.DataFrame | None = None) -> list[Path]:
    """Write all comparisons as one CSV file and a PNG each; of attacks, another one of how far they come, and how fast.

    Args:
        duels: at least one.
        out: folder.
        curves: of the same results folder, see `iqarena.bench.results.curves.effort_curves`.

    Raises:
        UserError: where it cannot.
    """
    pair = _slug("-".join(duels[0].names))
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"compare-{pair}.csv"]
        frame(duels).to_csv(paths[0], index=False)
        for duel in duels:
            dataset, label_kind, norm, eps = duel.track
            place = _slug("-".join(filter(None, [short_spec(duel.context), dataset, label_kind, norm, f"{eps:.6f}"])))
            paths.append(_save(partial(compared, duel), out / f"compare-{pair}-{place}.png"))
            own = _curves(duel, curves) if curves is not None and duel.kind == "attack" else pd.DataFrame()
            if len(own):
                drawn = partial(effort, own, "How far the attacks come, and how fast", duel.title)
                paths.append(_save(drawn, out / f"effort-{pair}-{place}.png"))
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written ({error.strerror}); choose another --out") from None
    return paths


def _curves(duel: Comparison, curves: pd.DataFrame) -> pd.DataFrame:
    """Of the two attacks on the duel's track, where they know of the defense."""
    attacks = [attack for attack in curves.attack.unique() if any(same(name, attack) for name in duel.names)]
    track = (curves.dataset == duel.track.dataset) & (curves.norm == duel.track.norm) & (curves.eps == duel.track.eps)
    return knowing(curves[track & curves.attack.isin(attacks)])


def _save(draw: Callable[[], Figure], path: Path) -> Path:
    with styled():
        draw().savefig(path, metadata={"Software": None})
    return path


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def headline(duel: Comparison) -> str:
    """The outcome in a sentence or two, for someone who has seen none of this before."""
    a, b = (short_spec(name) for name in duel.names)
    what = f"SROCC with the {duel.track.label_kind} labels" if duel.track.labelled else "SROCC with the clean qualities"
    if duel.kind == "attack":
        counts = [sum(duel.better("srocc", line) == name for line in duel.lines["srocc"]) for name in (a, b)]
        return (
            f"Of {len(duel.lines['srocc'])} targets, {a} leaves less {what} on {counts[0]}, {b} on {counts[1]}; "
            "on the others they are not told apart."
        )
    by_name = {line.what: line for line in duel.lines["srocc"]}
    worst = next((line for line in duel.lines["srocc"] if line.what.startswith(WORST)), duel.lines["srocc"][-1])
    one, other = (format_interval(values) for values in worst.values)
    better = duel.better("srocc", worst)
    verdict = f"{better} holds better" if better else "the two are not told apart"
    text = f"{worst.what[0].upper()}{worst.what[1:]}: {what} {one} with {a}, {other} with {b}; {verdict}."
    clean = by_name.get("no attack")
    if clean:
        text += f" Without any attack: {format_number(clean.values[0][0])} with {a}, {format_number(clean.values[1][0])} with {b}."
    return text


def notes(duel: Comparison) -> list[str]:
    """What a reader should know of the table."""
    found = []
    for name, count in zip(duel.names, duel.seeds, strict=True):
        if count > 1:
            found.append(f"{short_spec(name)}: means over {count} trainings, which the intervals resample too.")
    if duel.references < FEW_REFERENCES:
        found.append(f"Only {duel.references} reference images: intervals and p values are rough.")
    if duel.alone:
        found.append(f"Not compared, because not both were run with it: {'; '.join(duel.alone)}.")
    for name, flags in zip(duel.names, duel.flags, strict=True):
        found += [f"Flag of {short_spec(name)}, see docs/flags.md: {flag}." for flag in flags]
    return found
