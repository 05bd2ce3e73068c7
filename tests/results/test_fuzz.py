"""Records that no run writes: a results folder is read without them, and never raises another error than a user's."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iqarena.bench.errors import UserError
from iqarena.bench.results.store import Records, _with_hash
from tests.support.board_records import GOOD, put
from tests.support.fuzz import FUZZ, refusal

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    10**400,
    1e308,
    float("nan"),
    "",
    "x" * 300,
    "\ud800",
    "$\\frac{$",
    [],
    {},
    [[]],
]


@pytest.fixture
def cell(records: Records) -> str:
    """The id of the only cell of the folder of `records`."""
    put(records, GOOD)
    (record,) = records.all()
    return str(record["cell_id"])


def read(records: Records) -> list[dict[str, Any]]:
    """Read a folder as all commands do: its records, their scores and the summary."""
    fresh = Records(records.folder)
    found = list(fresh.all())
    fresh.summary()
    for record in found:
        fresh.scores(record["cell_id"])
    return found


@FUZZ
@given(st.binary(max_size=40), st.integers(0, 400))
@example(b"[" * 200_000, 0)
@example(b"\xff\xfe", 0)
@example(b"null", 0)
def test_a_record_of_any_bytes_is_left_out(records: Records, cell: str, content: bytes, place: int) -> None:
    path = records.cells / cell / "record.json"
    whole = path.read_bytes()
    try:
        changed = whole[:place] + content + (whole[place + len(content) :] if place else b"")
        path.write_bytes(changed)
        assert len(read(records)) == (changed == whole)
    finally:
        path.write_bytes(whole)
    assert len(read(records)) == 1


@FUZZ
@given(st.data(), st.sampled_from(VALUES))
def test_a_record_with_a_right_hash_and_an_odd_field_is_read_or_left_out(
    records: Records, cell: str, data: Any, value: Any
) -> None:
    path = records.cells / cell / "record.json"
    whole = path.read_bytes()
    record = json.loads(whole)
    del record["record_sha256"]
    inner = record
    while isinstance(inner, dict) and inner:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[key], dict) or not inner[key] or data.draw(st.booleans()):
            inner[key] = value
            break
        inner = inner[key]
    try:
        path.write_bytes(_with_hash(record))
        refusal(lambda: read(records), UserError)
    finally:
        path.write_bytes(whole)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_instead_of_a_record_is_left_out_and_not_waited_for(records: Records, cell: str) -> None:
    path = records.cells / cell / "record.json"
    path.unlink()
    os.mkfifo(path)
    assert read(records) == []
