"""docs/measures.md explains every column, and only existing ones."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pandas as pd

from docs.reference.measures import IMAGES, SUMMARY, measures_page
from iqarena.bench.metrics.measures import MEASURES, columns
from iqarena.bench.results.columns import CERTIFICATE_COLUMNS, IMAGE_COLUMNS, SUMMARY_COLUMNS
from iqarena.bench.results.curves import size_curves, transfers
from iqarena.bench.results.store import Records
from tests.support.board_records import GOOD, put

PAGE = Path(__file__).parents[2] / "docs" / "measures.md"


def test_the_page_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == measures_page(), "run python -m docs.reference"


def test_every_column_of_the_files_is_explained_once() -> None:
    measures = set(columns(MEASURES))
    assert measures.isdisjoint(SUMMARY)
    assert measures | set(SUMMARY) | set(CERTIFICATE_COLUMNS) == set(SUMMARY_COLUMNS)
    assert set(IMAGES) == set(IMAGE_COLUMNS)
    text = PAGE.read_text(encoding="utf-8")
    for name in [*SUMMARY, *IMAGES, *(measure.__name__ for measure in MEASURES)]:
        assert f"| `{name}` |" in text, name


def test_records_from_before_a_measure_was_there_load_with_nothing_in_its_place(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.prepare()
    put(records, GOOD)
    path = next(records.cells.iterdir())
    before = json.loads((path / "record.json").read_text())
    assert set(before["measures"]) == {"certified_srocc"}
    table = records.summary()
    assert list(table.columns) == SUMMARY_COLUMNS
    assert len(table) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.assign(mine=1, yours=2)  # pandas warns where a table lies about in a hundred pieces
    assert table[columns(MEASURES)].isna().all(axis=None)
    assert "krocc_clean" in pd.read_csv(tmp_path / "summary.csv").columns
    assert len(size_curves(records)) == 2
    assert transfers(records).srocc_adv.isna().all()
