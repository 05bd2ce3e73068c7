"""The plot of the progress of attacks against their forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from iqarena.bench.leaderboard.plots.style import FAINT, GREY, MARKERS, WIDTH, legend, set_title, truncate
from iqarena.bench.results.formatting import short_spec

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#5b5b5b")
"""Colours of the attacks after Okabe and Ito, which colour-blind people can distinguish; they repeat with other marks."""
MAX_TITLE = 48
"""Largest number of characters in a line above a panel."""
ROWS = {"abs_gain": "mean |quality shift|", "srocc": "SROCC with the labels"}


def effort(curves: pd.DataFrame, heading: str, below: str, most: int = 4) -> Figure:
    """Plot mean |shift| and SROCC of the best images that attacks had found, against their forward passes.

    Args:
        curves: from `iqarena.bench.results.curves.effort_curves`, of one track, with one cell for every model,
            defense, attack and objective.
        heading, below: title and subtitle.
        most: largest number of targets (a model and a defense), a column each; further ones are left out.
    """
    targets = list(dict.fromkeys(zip(curves.model, curves.defense, strict=True)))[:most]
    attacks = list(dict.fromkeys(zip(curves.attack, curves.objective, strict=True)))
    figure = Figure(figsize=(max(WIDTH, 2.3 * len(targets)), 4.9), layout="constrained")
    panels = figure.subplots(len(ROWS), len(targets), sharex="col", sharey="row", squeeze=False)
    for column, (model, defense) in enumerate(targets):
        target = curves[(curves.model == model) & (curves.defense == defense)]
        for row, (measure, label) in enumerate(ROWS.items()):
            axes = panels[row][column]
            axes.axhline(0, color=GREY, linewidth=0.8)
            for (attack, objective), curve in target.groupby(["attack", "objective"], sort=False):
                style = attacks.index((attack, objective))
                axes.plot(
                    curve.forwards,
                    curve[measure],
                    color=COLORS[style % len(COLORS)],
                    marker=_mark(style),
                    markersize=4,
                    linewidth=1.4,
                    alpha=0.9,
                )
            axes.grid(color=FAINT, linewidth=0.6)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.xaxis.set_minor_formatter(NullFormatter())  # the usual one writes formulas
            axes.set_ylabel(label if column == 0 else "")
        names = [truncate(short_spec(spec), MAX_TITLE) for spec in (model, defense) if spec != "none"]
        panels[0][column].set_title("\n+ ".join(names))
        panels[-1][column].set_xlabel("forward passes an image")
    panels[1][0].set_ylim(-1.05, 1.05)
    set_title(figure, heading, below)
    legend(figure, _handles(attacks))
    return figure


def _mark(style: int) -> str:
    return MARKERS[(style // len(COLORS) + style) % len(MARKERS)]


def _handles(attacks: Sequence[tuple[str, str]]) -> list[Line2D]:
    names = [f"{short_spec(attack)}, {objective}" for attack, objective in attacks]
    return [
        Line2D([], [], color=COLORS[style % len(COLORS)], marker=_mark(style), markersize=4, linewidth=1.4, label=name)
        for style, name in enumerate(names)
    ]


def defense_aware_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Select the curves of attacks that know the defense of their target: they query the deployed model or its surrogate."""
    undefended = np.asarray(curves.defense == "none") & np.asarray(curves.setting == "oblivious")
    aware: pd.DataFrame = curves[np.asarray(curves.setting == "adaptive") | undefended]
    return aware.drop_duplicates(["dataset", "norm", "eps", "model", "defense", "attack", "objective", "forwards"])
