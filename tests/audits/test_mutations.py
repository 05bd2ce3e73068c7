"""The mutations can be applied, and the page says what caught each; `python -m tests.audits.mutations` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audits.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_mutation_can_be_made_and_was_caught(mutation: Mutation) -> None:
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert all((ROOT / "tests" / name).is_file() for name in mutation.tests)
    page = (ROOT / "docs/tests.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith(f"| {mutation.what} | `{mutation.file}` |"))
    assert any(f"`{name}::" in line for name in mutation.tests)
