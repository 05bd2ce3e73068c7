"""Robust SROCC against the size of the attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from iqarena.bench.leaderboard.plots.style import COLORS, FAINT, GREY, MARKERS, OTHER, WIDTH, head, short, spread
from iqarena.bench.leaderboard.size_curves import Curve, Family
from iqarena.bench.results.formatting import format_number

MOST = 14


def curves(family: Family) -> Figure:
    """A line per model and defense, from no attack at the left to the largest."""
    lines = _some(family.curves)
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    axes = figure.subplots()
    models = sorted({line.model for line in lines})
    axes.axhline(0, color=GREY, linewidth=0.8)
    for line in lines:
        dash = "-" if line.defense != "none" else (0, (4, 2))
        there = [place for place, value in enumerate(line.values) if np.isfinite(value)]  # the line goes on past a gap
        axes.plot(
            there,
            [line.values[place] for place in there],
            color=COLORS.get(line.kind, OTHER),
            linestyle=dash,
            linewidth=1.5,
            marker=MARKERS[models.index(line.model) % len(MARKERS)],
            markersize=5,
            markeredgecolor="white",
            alpha=0.9,
        )
    axes.set_xticks(range(len(family.sizes)), family.sizes)
    axes.set(xlabel=f"size of the attack, {family.norm}", ylabel=family.measure, xlim=(-0.15, len(family.sizes) - 0.85))
    axes.grid(color=FAINT, linewidth=0.6)
    low, high = axes.get_ylim()
    ends = sorted((line.end, line.name, line) for line in lines)
    heights = spread([(end - low) / (high - low) for end, *_ in ends], 0.18 / (figure.get_figheight() - 1.1))
    for (end, _, line), name, height in zip(ends, short([name for _, name, _ in ends]), heights, strict=True):
        style = {
            "arrowstyle": "-",
            "color": COLORS.get(line.kind, OTHER),
            "linewidth": 0.9,
            "linestyle": (0, (1, 2)),
            "relpos": (0, 0.5),
        }
        axes.annotate(
            f"{name} {format_number(end)}",
            (line.last, end),
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops=style,
        )
    some = f" · {len(lines)} of {len(family.curves)} rows" if len(lines) < len(family.curves) else ""
    attacks = "one attack that was" if family.attacks == 1 else f"the least over {family.attacks} attacks that were"
    attacks = f"{attacks} run at every size"
    head(figure, "Robust SROCC against the size of the attack", f"{family.title} · {attacks}{some}")
    return figure


def _some(lines: Sequence[Curve]) -> list[Curve]:
    """The best by their mean, and undefended models."""
    if len(lines) <= MOST:
        return list(lines)
    bare = [line for line in lines if line.defense == "none"][: MOST // 3]
    best = sorted((line for line in lines if line not in bare), key=lambda line: -float(np.nanmean(line.values)))
    return [*best[: MOST - len(bare)], *bare]
