"""Manifests that no one would write: a bundle is opened or refused in one line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iqarena.bench.errors import UserError
from iqarena.bench.submission.bundle import open_bundle
from iqarena.bench.submission.rescoring import checked_cell
from tests.submission.test_bundle import MEMBERS, SAID, packed
from tests.support.fuzz import FUZZ, ODD, refusal

VALUES: list[Any] = [None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf"), [], {}, [[]], *ODD]

CELL = {"dataset": "demo", "model": "cnniqa", "defense": "none", "attack": "fgsm", "objective": "away", "norm": "linf",
        "eps": 2 / 255, "queries": None, "setting": "oblivious", "seed": 0, "draws": 8}  # fmt: skip

PLACES = [("claims", 0, "n_images"), ("claims", 0, "cell"), ("claims", 0, "cell", "seed"), ("claims", 0, "measures"),
          ("claims", 0, "measures", "srocc_adv"), ("claims", 0, "forwards"), ("claims",), ("members",), ("versions",),
          ("members", "source/mine.py"), ("members", "source/mine.py", "bytes"), ("plugin",), ("plugin", "file"),
          ("format",), ("name",), ("kind",), ("new",)]  # fmt: skip


def opened(path: Path) -> str:
    """Open a bundle, and build its cells as a verification does; return the refusal."""

    def read() -> None:
        with open_bundle(path) as bundle:
            for claim in bundle.manifest.claims:
                checked_cell(claim.cell)

    return refusal(read, UserError)


@FUZZ
@given(st.sampled_from(PLACES), st.sampled_from(VALUES))
@example(("members", "source/mine.py", "bytes"), 2**63)
@example(("claims", 0, "cell", "seed"), 2**63)
def test_a_manifest_is_read_or_refused_in_one_line(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["claims"] = [json.loads(json.dumps(claim)) | {"cell": dict(CELL)} for claim in SAID["claims"]]
        inner: Any = manifest
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = value

    refused = opened(packed(tmp_path, change=change))
    assert refused == "" or "\x1b" not in refused


@FUZZ
@given(st.binary(max_size=60))
@example(b"[" * 200_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 100_000)
@example(b'{"kind": "\\ud800"}')
def test_a_manifest_of_any_bytes_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("manifest.json", content)
    assert str(tmp_path / "b.zip") in opened(tmp_path / "b.zip")


@FUZZ
@given(st.sampled_from([*CELL, "target", "source", "precision", "new"]), st.sampled_from(VALUES))
def test_a_claimed_cell_is_built_or_refused_in_one_line(field: str, value: Any) -> None:
    refusal(lambda: checked_cell(CELL | {field: value}), UserError)


@pytest.mark.parametrize(("field", "value"), [("seed", 2**63), ("queries", 2**63), ("target", float("nan")), ("eps", 1e999)])
def test_numbers_of_a_claimed_cell_are_finite_and_of_64_bits(field: str, value: Any) -> None:
    assert refusal(lambda: checked_cell(CELL | {field: value}), UserError)


def test_a_bundle_is_as_good_as_before(tmp_path: Path) -> None:
    with open_bundle(packed(tmp_path)) as bundle:
        assert set(bundle.manifest.members) == set(MEMBERS)
