"""The plot of robust SROCC against the size of the attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from iqarena.bench.leaderboard.plots.style import (
    COLORS,
    FAINT,
    GREY,
    MARKERS,
    OTHER,
    WIDTH,
    set_title,
    shorten_names,
    spread,
)
from iqarena.bench.leaderboard.size_curves import Curve, Family
from iqarena.bench.results.formatting import format_number

MAX_CURVES = 14


def curves(family: Family) -> Figure:
    """Plot a curve for each model and defense, from no attack at the left to the largest size."""
    chosen = _select(family.curves)
    figure = Figure(figsize=(WIDTH, 4.8), layout="constrained")
    axes = figure.subplots()
    models = sorted({curve.model for curve in chosen})
    axes.axhline(0, color=GREY, linewidth=0.8)
    for curve in chosen:
        dash = "-" if curve.defense != "none" else (0, (4, 2))
        defined = [index for index, value in enumerate(curve.values) if np.isfinite(value)]  # the line spans gaps
        axes.plot(
            defined,
            [curve.values[index] for index in defined],
            color=COLORS.get(curve.kind, OTHER),
            linestyle=dash,
            linewidth=1.5,
            marker=MARKERS[models.index(curve.model) % len(MARKERS)],
            markersize=5,
            markeredgecolor="white",
            alpha=0.9,
        )
    axes.set_xticks(range(len(family.sizes)), family.sizes)
    axes.set(xlabel=f"size of the attack, {family.norm}", ylabel=family.measure, xlim=(-0.15, len(family.sizes) - 0.85))
    axes.grid(color=FAINT, linewidth=0.6)
    low, high = axes.get_ylim()
    ends = sorted((curve.end, curve.name, curve) for curve in chosen)
    heights = spread([(end - low) / (high - low) for end, *_ in ends], 0.18 / (figure.get_figheight() - 1.1))
    for (end, _, curve), name, height in zip(ends, shorten_names([name for _, name, _ in ends]), heights, strict=True):
        style = {
            "arrowstyle": "-",
            "color": COLORS.get(curve.kind, OTHER),
            "linewidth": 0.9,
            "linestyle": (0, (1, 2)),
            "relpos": (0, 0.5),
        }
        axes.annotate(
            f"{name} {format_number(end)}",
            (curve.last, end),
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops=style,
        )
    part = f" · {len(chosen)} of {len(family.curves)} rows" if len(chosen) < len(family.curves) else ""
    attacks = "one attack that was" if family.attacks == 1 else f"the least over {family.attacks} attacks that were"
    attacks = f"{attacks} run at every size"
    set_title(figure, "Robust SROCC against the size of the attack", f"{family.title} · {attacks}{part}")
    return figure


def _select(curves: Sequence[Curve]) -> list[Curve]:
    """Return the best curves by their mean, and some of undefended models; all where they are few."""
    if len(curves) <= MAX_CURVES:
        return list(curves)
    undefended = [curve for curve in curves if curve.defense == "none"][: MAX_CURVES // 3]
    defended = [curve for curve in curves if curve not in undefended]
    best = sorted(defended, key=lambda curve: -float(np.nanmean(curve.values)))
    return [*best[: MAX_CURVES - len(undefended)], *undefended]
