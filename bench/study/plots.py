"""The plots of the study, in the style of the leaderboard."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.plots import heat
from iqarena.bench.leaderboard.plots.style import COLORS, FAINT, GREY, INK, WIDTH, legend, set_title, spread
from iqarena.bench.metrics.bootstrap import interval
from iqarena.bench.results.formatting import format_eps, format_number
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
"""Colours after Okabe and Ito, as for the kinds of defense."""
ROLE_LABELS = {
    "none": "no defense",
    "baseline": "to be beaten",
    "cprl": "CPRL (our reconstruction)",
    "ablation": "CPRL less a term",
    "idea": "CPRL with ideas of ours",
    "control": "these ideas without CPRL",
}
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))


def draw(findings: Findings, main: Size, folder: Path) -> Iterator[Path]:
    """Write all plots of a data set as PNG and SVG.

    Raises:
        OSError: if the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(findings.sizes) > 1:
        yield from plots.save(partial(curves, findings), folder / f"curves-{findings.dataset}")
    for plot, name in ((bars, "robust"), (attacks, "attacks")):
        yield from plots.save(partial(plot, findings, main), folder / f"{name}-{findings.dataset}")


def curves(findings: Findings) -> Figure:
    """Plot robust SROCC against the size of the attack, a line for each variant, means over seeds."""
    sizes = ["0", *(format_eps("linf", size.eps) for size in findings.sizes)]
    lines = [(variant, _line(findings, variant)) for variant in _variants(findings)]
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=0.8)
    drawn: dict[str, int] = {}  # lines by role
    for variant, values in lines:
        dash = DASHES[drawn.setdefault(variant.role, 0) % len(DASHES)]
        drawn[variant.role] += 1
        axes.plot(
            range(len(values)), values, color=ROLES[variant.role], linestyle=dash, linewidth=1.7, marker="o", markersize=4
        )
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="size of the attack, linf", ylabel="robust SROCC", xlim=(-0.15, len(sizes) - 0.85))
    axes.grid(color=FAINT, linewidth=0.6)
    _label_lines(figure, lines)
    below = f"{_about(findings)} · the least over the attacks that all met, mean over seeds"
    set_title(figure, "Robust SROCC against the size of the attack", below)
    legend(figure, _roles([variant for variant, _ in lines]))
    return figure


def bars(findings: Findings, size: Size) -> Figure:
    """Plot clean and robust SROCC of every variant at one size: mean over seeds with its interval, and each seed."""
    figure = Figure(figsize=(WIDTH, 1.7 + 0.27 * len(size.variants)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=0.8)
    order = sorted(size.variants, key=lambda variant: -size.robust(variant)[0])
    for y, variant in enumerate(order):
        color = ROLES[variant.role]
        value, low, high = interval(size.robust(variant))
        axes.plot([low, high], [y, y], color=color, linewidth=2.6, alpha=0.5, solid_capstyle="butt")
        axes.plot(value, y, "o", color=color, markersize=6.5, zorder=3)
        axes.plot(size.clean(variant)[0], y, "o", markersize=6.5, markerfacecolor="none", markeredgecolor=INK, zorder=3)
        each = [float(run.robust(size.common)[0]) for run in size.of(variant)]
        axes.plot(each, [y + 0.3] * len(each), "|", color=color, markersize=6, markeredgewidth=1.2)
    axes.set_yticks(range(len(order)), [variant.name for variant in order])
    axes.set(xlim=(-1.03, 1.03), ylim=(len(order) - 0.4, -0.6), xlabel="SROCC (1 = same order, −1 = reversed)")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    below = f"{_about(findings)} · linf {format_eps('linf', size.eps)}, {len(size.common)} attacks that all met"
    set_title(figure, "Robust SROCC, mean over seeds with 95 % intervals over reference images and seeds", below)
    marks = [
        Line2D([], [], color=INK, marker="o", markersize=6.5, markerfacecolor="none", linestyle="none", label="clean"),
        Line2D([], [], color=GREY, marker="|", markersize=7, linestyle="none", label="each seed"),
    ]
    legend(figure, [*_roles(order), *marks])
    return figure


def attacks(findings: Findings, size: Size) -> Figure:
    """Plot the SROCC of every variant under every attack at one size, mean over the seeds that the attack was run on."""
    cases = sorted(
        {case for run in size.runs for case in run.attacked},
        key=lambda case: (bool(case.through), case not in size.common, case),
    )
    grid = np.full((len(size.variants), len(cases)), np.nan)
    for row, variant in enumerate(size.variants):
        for column, case in enumerate(cases):
            values = [run.attacked[case][0] for run in size.of(variant) if case in run.attacked]
            grid[row, column] = np.mean(values) if values else np.nan
    seeds = [{run.seed for run in size.runs if case in run.attacked} for case in cases]
    all_seeds = {run.seed for run in size.runs}
    names = [f"{case}{'' if case_seeds == all_seeds else ' *'}" for case, case_seeds in zip(cases, seeds, strict=True)]
    figure, _ = heat.heat_map([v.name for v in size.variants], names, [""], [grid], heat.srocc_scale(), "SROCC")
    star = " · * seed 0 alone" if any(case_seeds != all_seeds for case_seeds in seeds) else ""
    below = f"{_about(findings)} · linf {format_eps('linf', size.eps)}, mean over seeds{star}"
    set_title(figure, "SROCC after each attack", below)
    return figure


def _line(findings: Findings, variant: Variant) -> list[float]:
    """Return the clean SROCC, then the robust one at every size; NaN where the variant was not run."""
    sizes = [size for size in findings.sizes if variant in size.variants]
    values = {size.eps: float(size.robust(variant)[0]) for size in sizes}
    return [float(sizes[0].clean(variant)[0]), *(values.get(size.eps, np.nan) for size in findings.sizes)]


def _variants(findings: Findings) -> list[Variant]:
    return list(dict.fromkeys(variant for size in findings.sizes for variant in size.variants))


def _label_lines(figure: Figure, lines: list[tuple[Variant, list[float]]]) -> None:
    """Write names at the right ends of the lines, moved apart where they would overlap."""
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    last = [max(np.flatnonzero(np.isfinite(values))) for _, values in lines]
    ends = sorted(
        (values[x], variant.name, x, ROLES[variant.role]) for (variant, values), x in zip(lines, last, strict=True)
    )
    heights = spread([(end - low) / (high - low) for end, *_ in ends], 0.17 / (figure.get_figheight() - 1.6))
    for (end, name, x, color), height in zip(ends, heights, strict=True):
        arrow = {"arrowstyle": "-", "color": color, "linewidth": 0.9, "linestyle": (0, (1, 2)), "relpos": (0, 0.5)}
        axes.annotate(
            f"{name} {format_number(end)}",
            (x, end),
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            annotation_clip=False,
            arrowprops=arrow,
        )


def _about(findings: Findings) -> str:
    return f"{findings.dataset}, {findings.label_kind} · {findings.images} images of {findings.references} references"


def _roles(variants: list[Variant]) -> list[Line2D]:
    present = [role for role in ROLES if role in {variant.role for variant in variants}]
    return [
        Line2D([], [], color=ROLES[role], marker="o", linewidth=1.7, markersize=5, label=ROLE_LABELS[role])
        for role in present
    ]
