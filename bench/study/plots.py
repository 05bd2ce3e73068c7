"""The study's plots, in the looks of the leaderboard's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.plots import heat
from iqarena.bench.leaderboard.plots.style import COLORS, FAINT, GREY, INK, WIDTH, head, legend, spread
from iqarena.bench.metrics.bootstrap import interval
from iqarena.bench.results.formatting import format_eps as written
from iqarena.bench.results.formatting import format_number
from iqarena.bench.study.numbers import Findings, Size
from iqarena.bench.study.variants import Variant

ROLES = {
    "none": COLORS["none"],
    "baseline": "#0072B2",
    "cprl": "#D55E00",
    "ablation": "#E69F00",
    "idea": "#009E73",
    "control": "#CC79A7",
}
"""After Okabe and Ito, as the kinds of defense."""
WORDS = {
    "none": "no defense",
    "baseline": "to be beaten",
    "cprl": "CPRL (our reconstruction)",
    "ablation": "CPRL less a term",
    "idea": "CPRL with ideas of ours",
    "control": "these ideas without CPRL",
}
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))


def draw(found: Findings, main: Size, folder: Path) -> Iterator[Path]:
    """Write all plots of a data set as PNG and SVG.

    Raises:
        OSError: where the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(found.sizes) > 1:
        yield from plots.save(partial(curves, found), folder / f"curves-{found.dataset}")
    for made, name in ((bars, "robust"), (attacks, "attacks")):
        yield from plots.save(partial(made, found, main), folder / f"{name}-{found.dataset}")


def curves(found: Findings) -> Figure:
    """Robust SROCC against the size of the attack, a line a variant, means over seeds."""
    sizes = ["0", *(written("linf", size.eps) for size in found.sizes)]
    lines = [(variant, _line(found, variant)) for variant in _variants(found)]
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=0.8)
    same: dict[str, int] = {}
    for variant, values in lines:
        dash = DASHES[same.setdefault(variant.role, 0) % len(DASHES)]
        same[variant.role] += 1
        axes.plot(
            range(len(values)), values, color=ROLES[variant.role], linestyle=dash, linewidth=1.7, marker="o", markersize=4
        )
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="size of the attack, linf", ylabel="robust SROCC", xlim=(-0.15, len(sizes) - 0.85))
    axes.grid(color=FAINT, linewidth=0.6)
    _label(figure, lines)
    below = f"{_about(found)} · the least over the attacks that all met, mean over seeds"
    head(figure, "Robust SROCC against the size of the attack", below)
    legend(figure, _roles([variant for variant, _ in lines]))
    return figure


def bars(found: Findings, size: Size) -> Figure:
    """Clean and robust SROCC of every variant at one size: mean over seeds with its interval, and the seeds."""
    figure = Figure(figsize=(WIDTH, 1.7 + 0.27 * len(size.variants)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    order = sorted(size.variants, key=lambda variant: -size.robust(variant)[0])
    for place, variant in enumerate(order):
        color = ROLES[variant.role]
        value, low, high = interval(size.robust(variant))
        axes.plot([low, high], [place, place], color=color, linewidth=2.6, alpha=0.5, solid_capstyle="butt")
        axes.plot(value, place, "o", color=color, markersize=6.5, zorder=3)
        axes.plot(size.clean(variant)[0], place, "o", markersize=6.5, markerfacecolor="none", markeredgecolor=INK, zorder=3)
        each = [float(run.robust(size.common)[0]) for run in size.of(variant)]
        axes.plot(each, [place + 0.3] * len(each), "|", color=color, markersize=6, markeredgewidth=1.2)
    axes.set_yticks(range(len(order)), [variant.name for variant in order])
    axes.set(xlim=(-1.03, 1.03), ylim=(len(order) - 0.4, -0.6), xlabel="SROCC (1 = same order, −1 = reversed)")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    below = f"{_about(found)} · linf {written('linf', size.eps)}, {len(size.common)} attacks that all met"
    head(figure, "Robust SROCC, mean over seeds with 95 % intervals over reference images and seeds", below)
    marks = [
        Line2D([], [], color=INK, marker="o", markersize=6.5, markerfacecolor="none", linestyle="none", label="clean"),
        Line2D([], [], color=GREY, marker="|", markersize=7, linestyle="none", label="each seed"),
    ]
    legend(figure, [*_roles(order), *marks])
    return figure


def attacks(found: Findings, size: Size) -> Figure:
    """SROCC of every variant under every attack at one size, mean over the seeds that met it."""
    mets = sorted(
        {met for run in size.runs for met in run.attacked}, key=lambda met: (bool(met.through), met not in size.common, met)
    )
    grid = np.full((len(size.variants), len(mets)), np.nan)
    for row, variant in enumerate(size.variants):
        for column, met in enumerate(mets):
            values = [run.attacked[met][0] for run in size.of(variant) if met in run.attacked]
            grid[row, column] = np.mean(values) if values else np.nan
    seeds = [{run.seed for run in size.runs if met in run.attacked} for met in mets]
    every = {run.seed for run in size.runs}
    names = [f"{met}{'' if own == every else ' *'}" for met, own in zip(mets, seeds, strict=True)]
    figure, _ = heat.table([v.name for v in size.variants], names, [""], [grid], heat.both_ways(), "SROCC")
    star = " · * seed 0 alone" if any(own != every for own in seeds) else ""
    below = f"{_about(found)} · linf {written('linf', size.eps)}, mean over seeds{star}"
    head(figure, "SROCC after each attack", below)
    return figure


def _line(found: Findings, variant: Variant) -> list[float]:
    """Clean, then robust at every size; NaN where it was not run."""
    there = [size for size in found.sizes if variant in size.variants]
    values = {size.eps: float(size.robust(variant)[0]) for size in there}
    return [float(there[0].clean(variant)[0]), *(values.get(size.eps, np.nan) for size in found.sizes)]


def _variants(found: Findings) -> list[Variant]:
    return list(dict.fromkeys(variant for size in found.sizes for variant in size.variants))


def _label(figure: Figure, lines: list[tuple[Variant, list[float]]]) -> None:
    """Names at the right ends, moved apart where they would meet."""
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    last = [max(np.flatnonzero(np.isfinite(values))) for _, values in lines]
    ends = sorted(
        (values[at], variant.name, at, ROLES[variant.role]) for (variant, values), at in zip(lines, last, strict=True)
    )
    heights = spread([(end - low) / (high - low) for end, *_ in ends], 0.17 / (figure.get_figheight() - 1.6))
    for (end, name, at, color), height in zip(ends, heights, strict=True):
        arrow = {"arrowstyle": "-", "color": color, "linewidth": 0.9, "linestyle": (0, (1, 2)), "relpos": (0, 0.5)}
        axes.annotate(
            f"{name} {format_number(end)}",
            (at, end),
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops=arrow,
        )


def _about(found: Findings) -> str:
    return f"{found.dataset}, {found.label_kind} · {found.images} images of {found.references} references"


def _roles(variants: list[Variant]) -> list[Line2D]:
    present = [role for role in ROLES if role in {variant.role for variant in variants}]
    return [
        Line2D([], [], color=ROLES[role], marker="o", linewidth=1.7, markersize=5, label=WORDS[role]) for role in present
    ]
