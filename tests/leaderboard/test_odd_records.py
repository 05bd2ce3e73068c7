"""A bad name or record costs a line below the board, never the board; so does a results folder that cannot be written to."""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.plots import letters
from iqarena.bench.leaderboard.render import check, render
from iqarena.bench.results import store
from iqarena.bench.results.ranking import tracks
from iqarena.bench.results.store import Records
from tests.support.board_records import BAD, CLEAN, GOOD, WEAK, put

NAMES = (
    "$\\frac{$",
    "ResNet[ours]",
    "a]",
    "",
    "x" * 250,
    "two\r\nlines",
    "\ud800",
    "日本語モデル",
    "\u202eab",
    "../../up",
    "a\x00b",
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def edited(records: Records, **fields: Any) -> Records:
    """Write odd fields into the record of one cell, with a hash that holds; return the folder as it is read anew."""
    first = next(iter(records.all()))
    path = records.cells / first["cell_id"] / "record.json"
    record = json.loads(path.read_bytes())
    del record["record_sha256"]
    for name, value in fields.items():
        part, _, field = name.partition("__")
        if field:
            record[part][field] = value
        else:
            record[part] = value
    path.write_bytes(store._with_hash(record))
    return Records(records.folder)


def board(records: Records, out: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render(records, out)
    assert check(Records(records.folder), out) == []
    return (out / "leaderboard.md").read_text()


def ranked(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]


def test_every_name_has_its_row_and_its_place_in_the_plots(records: Records, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        put(records, [GOOD, WEAK, BAD][number % 3], model=name, objective="reflect")
        put(records, CLEAN, model=name, attack="random-noise")
    text = board(records, tmp_path / "out")
    assert len(ranked(text)) == len(NAMES)
    assert "## Left out" not in text
    assert "(no name)" in text
    assert len(records.summary()) == 2 * len(NAMES)


@pytest.mark.parametrize(
    "fields",
    [
        {"cell__eps": "wide"}, {"cell__eps": 1e308}, {"cell__model": 7}, {"cell__seed": 2**70}, {"cell__objective": "win"},
        {"cell__dataset": None}, {"measures": []}, {"flags": None}, {"n_images": 0}, {"n_images": 3}, {"attack": {}},
        {"defense__stochastic": "perhaps"}, {"dataset": {}}, {"crafting": "../../etc"}, {"status": None},
        {"errors": "one"}, {"curve": {"forwards": [1, 2], "abs_gain": [0.1]}}, {"provenance": {"finished": 5}},
        {"score_seconds_an_image": {"defended": "long"}}, {"model__paper": ["a"]}, {"version": 3},
    ],
    ids=str,
)  # fmt: skip
def test_an_odd_record_is_one_line_and_the_others_are_drawn(
    records: Records, tmp_path: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "draw", lambda *_: [])
    put(records, GOOD)
    put(records, BAD, model="z")
    odd = edited(records, **fields)
    render(odd, tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert len(ranked(text)) == 1
    (line,) = text.partition("## Left out")[2].strip().partition("\n\n")[0].splitlines()
    assert line.startswith("- left out: demo-m-none")
    assert len(odd.summary()) == (2 if fields == {"n_images": 3} else 1)


def test_a_table_of_images_that_is_not_of_its_record_is_left_out(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    put(records, np.where(np.arange(24) == 3, np.nan, GOOD), model="z")
    rows = tracks(records)
    assert [row.model for rows_of_track in rows.values() for row in rows_of_track] == ["m"]
    assert list(records.left_out.values()) == ["images.csv: lacks a quality, but the record says ok"]


def test_a_folder_of_nothing_but_odd_records_says_so(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    with pytest.raises(UserError, match=r"no records, and left out: demo-m-none.*cell\.model"):
        render(edited(records, cell__model=5), tmp_path)


def test_messages_of_a_plugin_are_kept_short_and_can_be_shown(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    put(records, BAD, model="z", status="failed", errors=["\ud800 lost\x00\r\n" + "a" * 10_000_000, *map(str, range(200))])
    record = next(record for record in records.all() if record["cell"]["model"] == "z")
    assert len(json.dumps(record)) < 10_000
    assert record["errors"][0].startswith("\ufffd lost\ufffd aaa")
    assert record["errors"][0].endswith(" more characters")
    assert record["errors"][-1] == "… and 101 more messages"
    assert "\ufffd lost" in board(records, tmp_path)


def test_a_damaged_image_is_not_shown_and_the_board_is(records: Records, tmp_path: Path) -> None:
    put(records, GOOD, kept=True)
    for path in records.kept_images.folder.glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:40])
    assert "images-demo" not in board(records, tmp_path)


def test_read_only_results_are_drawn_elsewhere(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(records, GOOD)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    before = sorted(records.folder.rglob("*"))
    text = board(records, tmp_path / "out")
    assert sorted(records.folder.rglob("*")) == before
    assert "](plots/robust-srocc-demo-linf-2-255.png)" in text
    assert "iqarena run suites/demo-linf-2-255.yaml" in text
    assert "iqarena leaderboard --results ../results`" in text
    assert all((tmp_path / "out" / name).is_file() for name in ("site/index.html", "suites/demo-linf-2-255.yaml"))


def test_the_summary_of_read_only_results_is_the_one_that_could_not_be_written(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(records, GOOD)
    expected = records.summary()

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store, "replace_synced", refuse)
    assert records.summary().equals(expected)
    with pytest.raises(UserError, match="Read-only"):
        records.rebuild_summary()


def test_letters_come_from_another_font_where_one_has_them_and_are_question_marks_where_none_has() -> None:
    from matplotlib.figure import Figure

    def plot() -> Figure:
        figure = Figure()
        axes = figure.subplots()
        axes.set_yticks([0, 1], ["日本", "plain"])
        figure.suptitle("日 \U0001d4d0")
        return figure

    usual = letters._letters(letters._usual())
    assert "日" not in usual
    with plots.styled():
        figure = letters.draw(plot)
        assert figure is not None
        figure.canvas.draw()
        ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    if not letters._other_fonts(frozenset("日"))[1]:
        assert ticks == ["??", "plain"]
        assert figure.get_suptitle().endswith(letters.NOTE)
    families, covered = letters._other_fonts(frozenset("\U0001d4d0"))  # matplotlib brings a font that has this one
    assert covered <= usual or families


def test_fields_that_no_table_reads_may_be_anything(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    odd = edited(records, extra={"deep": [None]}, cell__colour="red", attack__parameters={"steps": "many"})
    before = copy.deepcopy(next(iter(odd.all())))
    assert before["extra"] == {"deep": [None]}
    assert odd.left_out == {}
