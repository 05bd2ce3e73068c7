"""Plots: which rows they show if there are many, and that no label is cut off."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.board import select_rows
from iqarena.bench.leaderboard.content import content
from iqarena.bench.leaderboard.plots.style import shorten_names, spread, styled
from iqarena.bench.leaderboard.size_curves import families
from iqarena.bench.results.store import Records
from tests.support.board_records import BAD, GOOD, MOS, NOISE, put


def test_a_plot_that_cannot_show_all_rows_shows_the_best_and_undefended_ones(records: Records) -> None:
    for index in range(9):
        put(records, MOS + 0.05 * index * NOISE[4], defense=f"d{index}")
    put(records, BAD, defense="none")
    (board,) = content(records).boards
    selected = select_rows(board.rows, 4)
    assert [row.defense for row in selected] == [*(row.defense for row in board.rows[:3]), "none"]
    assert select_rows(board.rows, 99) == list(board.rows)


NAME = "a-defense-with-a-rather-long-name[x=1]"
LONG = "smoothing[draws=10,surrogate_draws=2,certify_draws=310,confidence=0.99]"


@pytest.mark.parametrize(
    ("name", "rows", "attacks"),
    [
        (NAME, 1, 1),
        (NAME, 18, 24),
        ("median-smoothing[draws=10,surrogate_draws=2,certify_draws=310,confidence=0.99]", 24, 1),
    ],
)
def test_no_label_is_cut_off(records: Records, name: str, rows: int, attacks: int) -> None:
    moved = {"setting": "transfer", "source": "elsewhere"}
    for eps in (2 / 255, 4 / 255):
        put(records, GOOD, eps=eps, defense=name, objective="reflect", kept=True, **moved)
    boards = []
    for board in content(records).boards:
        (row,) = board.rows
        (cell,) = row.cells
        keys = [cell.key._replace(attack=f"art:ProjectedGradientDescent[max_iter={number}]") for number in range(attacks)]
        row = replace(row, certified=0.1, cells=tuple(replace(cell, key=key) for key in keys))
        boards.append(replace(board, rows=tuple(replace(row, model=f"model{number}") for number in range(rows))))
    assert plots.kinds(boards[0]) == list(plots.KINDS)
    figures = [*(partial(draw, boards[0]) for draw in plots.KINDS.values()), partial(plots.curves, *families(boards))]
    with styled():
        for figure in (plot() for plot in figures):
            figure.draw_without_rendering()
            inside, used = figure.bbox_inches, figure.get_tightbbox()
            assert used.x0 >= inside.x0 - 0.01
            assert used.y0 >= inside.y0 - 0.01
            assert used.x1 <= inside.x1 + 0.01
            assert used.y1 <= inside.y1 + 0.01


def test_spread_keeps_order_and_distance() -> None:
    placed = spread([0.5, 0.5, 0.5, 0.98, 0.99], 0.1)
    assert min(np.diff(placed)) >= 0.1 - 1e-12
    assert max(placed) <= 1
    assert spread([0.2, 0.8], 0.1) == [0.2, 0.8]
    assert spread([], 0.1) == []
    assert spread([0.5] * 3, 9)[-1] == 1


def test_long_parameters_are_left_out_where_names_differ_without_them() -> None:
    long, other = (
        "smoothing[draws=10,certify_draws=310,confidence=0.99]",
        "smoothing[draws=20,certify_draws=310,confidence=0.9]",
    )
    assert shorten_names([f"m + {long}", "jpeg[quality=50]"]) == ["m + smoothing[…]", "jpeg[quality=50]"]
    assert shorten_names([long, other]) == [long, other]
