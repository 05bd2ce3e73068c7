"""The doctests in docstrings pass."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [file for package in ("attacks", "bench", "defenses", "models") for file in sorted((ROOT / package).rglob("*.py"))]
MODULES = [
    ".".join(("iqarena", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for file in FILES
    if re.search(r"^ +>>> (?!.*[+]SKIP)", file.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 0
    assert failed == 0


def test_the_contracts_have_examples() -> None:
    assert {
        "iqarena.attacks.base",
        "iqarena.attacks.threat",
        "iqarena.bench.api",
        "iqarena.bench.inference.target",
        "iqarena.defenses.base",
        "iqarena.models.base",
    } <= set(MODULES)
