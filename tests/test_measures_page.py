"""docs/measures.md says what every column is, and nothing that is not there."""

from __future__ import annotations

from pathlib import Path

from bench.measures import FIXED, LATER, columns
from bench.records import IMAGE_COLUMNS, SUMMARY_COLUMNS
from bench.reference.measures import IMAGES, SUMMARY, measures_page

PAGE = Path(__file__).parents[1] / "docs" / "measures.md"


def test_the_page_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == measures_page(), "run python -m bench.reference"


def test_every_column_of_the_files_is_explained_once() -> None:
    measures = set(columns((*FIXED, *LATER)))
    assert measures.isdisjoint(SUMMARY)
    assert measures | set(SUMMARY) == set(SUMMARY_COLUMNS)
    assert set(IMAGES) == set(IMAGE_COLUMNS)
    text = PAGE.read_text(encoding="utf-8")
    for name in [*SUMMARY, *IMAGES, *(measure.__name__ for measure in (*FIXED, *LATER))]:
        assert f"| `{name}` |" in text, name
