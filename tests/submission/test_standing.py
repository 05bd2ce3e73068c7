"""Submitted images against the row that a board lists: compared only for the same row, images and model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from iqarena.bench.cells import Cell
from iqarena.bench.cli.app import app
from iqarena.bench.results.ranking import tracks
from iqarena.bench.results.store import Records
from iqarena.bench.submission.standing import SAME_RANKS, BoardStanding, standing
from iqarena.bench.suite import validated
from tests.support.small_runs import four_images, go


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two attacks on one model with and without a defense."""
    folder = tmp_path_factory.mktemp("board")
    chosen = {"models": ["cnniqa"], "defenses": ["none", "jpeg"], "dataset": "folder", "attacks": ["fgsm", "pgd[steps=2]"],
              "settings": ["adaptive"]}  # fmt: skip
    assert not go(validated(chosen), four_images(folder / "images"), folder / "runs", executor="local").failed
    return folder / "runs"


@pytest.fixture(scope="module")
def table(board: Path) -> pd.DataFrame:
    return pd.read_csv(board / "summary.csv").query("defense == 'jpeg'")


def cell_of(board: Path) -> Cell:
    return next(Cell(**r["cell"]) for r in Records(board).all() if r["cell"]["defense"] == "jpeg")


def stand(board: Path, table: pd.DataFrame, **changed: Any) -> BoardStanding | str:
    """Return the standing of images with the measures of the row, except for the given changes."""
    cell = replace(cell_of(board), **changed.pop("cell", {}))
    own = {"srocc_clean": table.srocc_clean.iloc[0], "srocc_adv": table.srocc_adv.min(), "abs_gain": 0.1} | changed
    ids = own.pop("ids", [f"{number}.png" for number in range(4)])
    as_claimed, claimed = own.pop("as_claimed", True), {"srocc_adv": -0.5}
    return standing(board, cell, ids, claimed, {"stability_srocc": 0.0} | own, as_claimed)


def test_listed_is_what_the_leaderboard_lists(board: Path, table: pd.DataFrame) -> None:
    stands = stand(board, table)
    assert isinstance(stands, BoardStanding)
    clean, robust, shift = stands.numbers
    row = next(row for rows in tracks(Records(board)).values() for row in rows if row.defense == "jpeg")
    assert (clean.listed, robust.listed, shift.listed) == (row.clean[0], row.robust[0], row.shift[0])
    # the same as in the summary: the least over the cells, the largest over the cells
    assert robust.listed == pytest.approx(table.srocc_adv.min(), abs=1e-9)
    assert shift.listed == pytest.approx(table.abs_gain.max(), abs=1e-7)  # images.csv has qualities in eight digits
    assert robust.by == row.worst_attack
    assert (robust.claimed, clean.claimed) == (-0.5, None)
    assert stands.row == "cnniqa + jpeg, folder, linf 2/255"


@pytest.mark.parametrize(("by", "beats"), [(-0.1, True), (-2 * SAME_RANKS, True), (0.0, False), (0.1, False)])
def test_only_a_lower_robust_srocc_beats_a_row(board: Path, table: pd.DataFrame, by: float, beats: bool) -> None:
    stands = stand(board, table, srocc_adv=table.srocc_adv.min() + by)
    assert isinstance(stands, BoardStanding)
    assert stands.beats is beats
    assert ("does not beat" in stands.summary) is not beats


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"as_claimed": False}, "beats nothing: it is not as claimed"),
        ({"ids": ["0.png", "1.png", "2.png"]}, "the row is of 4 images, these are 3"),
        ({"ids": ["0.png", "1.png", "2.png", "9.png"]}, "the row is of 4 other images"),
        ({"srocc_clean": -0.9}, "another one than the row's"),
        ({"srocc_adv": float("nan")}, "is not defined"),
    ],
)
def test_what_is_of_something_else_is_not_compared(board: Path, table: pd.DataFrame, changed: Any, message: str) -> None:
    stands = stand(board, table, **{"srocc_adv": -1.0} | changed)
    assert isinstance(stands, BoardStanding)
    assert stands.beats is None
    assert message in stands.summary


@pytest.mark.parametrize(
    ("cell", "message"),
    [({"eps": 4 / 255}, "cnniqa + jpeg on folder, linf 4/255"), ({"norm": "l2", "eps": 0.5}, "on folder, l2 0.5"),
     ({"defense": "none", "model": "niqe"}, "none of niqe on folder"), ({"dataset": "demo"}, "on demo")],
)  # fmt: skip
def test_a_row_that_is_not_there_is_a_line(board: Path, table: pd.DataFrame, cell: dict[str, Any], message: str) -> None:
    stands = stand(board, table, cell=cell)
    assert isinstance(stands, str)
    assert message in stands
    assert "\n" not in stands
    assert "has none of" in str(standing(board / "nowhere", cell_of(board), ["0.png"], {}, {}, True))


def test_verify_shows_it(board: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    runner, root = CliRunner(), ["--root", str(board.parent / "images")]
    clean, packed = str(tmp_path / "clean"), str(tmp_path / "b.zip")
    assert runner.invoke(app, ["data", "export", "folder", clean, *root]).exit_code == 0
    args = ["submit", "images", clean, "-m", "cnniqa", "-d", "jpeg", "--dataset", "folder", "--eps", "2/255", *root]
    assert runner.invoke(app, [*args, "--out", packed]).exit_code == 0
    done = runner.invoke(app, ["verify", packed, *root, "--results", str(board)])
    assert done.exit_code == 0, done.output
    heading = next(line for line in done.output.splitlines() if "listed" in line)
    assert heading.split() == ["listed", "claimed", "measured"]
    assert "on the board: cnniqa + jpeg, folder, linf 2/255" in done.output
    lower = bool(table.srocc_clean.iloc[0] < table.srocc_adv.min() - SAME_RANKS)  # the images are clean ones
    assert ("does not beat the listed row" in done.output) is not lower
    assert ("\nbeats the listed row" in done.output) is lower
    done = runner.invoke(app, ["verify", packed, *root, "--results", str(tmp_path)])
    assert done.exit_code == 0
    assert "left open: not set beside a listed row" in done.output


def test_a_row_of_another_data_set_of_that_name_is_none(board: Path, table: pd.DataFrame) -> None:
    fingerprint = next(iter(Records(board).all()))["dataset"]["fingerprint"]
    names = [f"{number}.png" for number in range(4)]
    measured = {"srocc_clean": table.srocc_clean.iloc[0], "srocc_adv": -1.0, "stability_srocc": 0.0, "abs_gain": 0.1}
    same = standing(board, cell_of(board), names, {}, measured, True, fingerprint, "content")
    assert isinstance(same, BoardStanding)
    assert same.beats
    other = standing(board, cell_of(board), names, {}, measured, True, "0" * 64, "content")
    assert "has none of cnniqa + jpeg on folder" in str(other)
