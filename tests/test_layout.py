"""The shape of the project: arrows between packages point one way, and the README's commands are what CI runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "models": {"models"},
    "attacks": {"attacks"},
    "defenses": {"defenses", "models"},
    "bench": {"bench", "attacks", "defenses", "models"},
}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add((node.module or "").partition(".")[0])
    return found


def named(file: Path) -> set[str]:
    """Top-level packages that a file imports by a string."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call) and node.args]
    by_name = [c for c in calls if ast.unparse(c.func) in ("__import__", "import_module", "importlib.import_module")]
    return {str(c.args[0].value).partition(".")[0] for c in by_name if isinstance(c.args[0], ast.Constant)}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        own = (imported(file) | named(file)) & set(MAY_IMPORT)
        assert own <= MAY_IMPORT[package], f"{file} imports {own - MAY_IMPORT[package]}"


@pytest.mark.parametrize(
    "text",
    ["import bench", "from iqarena.bench.cli.app import app", "def late():\n    import iqarena.bench.inference.target as hidden",
     "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from iqarena.bench.inference.target import Target",
     "import importlib\nimportlib.import_module('iqarena.bench.inference.target')"],
)  # fmt: skip
def test_an_arrow_that_points_the_wrong_way_is_seen(text: str, tmp_path: Path) -> None:
    (tmp_path / "attack.py").write_text(text)
    assert "bench" in imported(tmp_path / "attack.py") | named(tmp_path / "attack.py")


def test_the_core_imports_no_torchvision() -> None:
    for package in MAY_IMPORT:
        for file in (ROOT / package).rglob("*.py"):
            assert "torchvision" not in imported(file), file


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    set_up_and_test = 'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && .venv/bin/pytest -n 2'
    set_up_and_run = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/iqarena run"
    for command in (set_up_and_test, set_up_and_run):
        assert command in readme
        assert command in ci


@pytest.mark.parametrize("name", ["attacks.md", "datasets.md", "models.md"])
def test_the_pages_of_the_registries_are_what_they_say(name: str) -> None:
    from docs.reference import PAGES

    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run python -m docs.reference"


def test_every_shipped_weight_file_has_its_card() -> None:
    from iqarena.models.zoo import ZOO, card_of, sha256_of

    files = sorted(ZOO.glob("*.safetensors"))
    assert len(files) >= 4
    for file in files:
        card = card_of(file)
        assert card["sha256"] == sha256_of(file)
        assert {"data", "measured", "licence"} <= set(card)
        assert "fit" in card or {"schedule", "budget"} <= set(card)  # fitted in one go, or trained
        assert file.stat().st_size < 6 * 2**20
    # the three variants of resnet-iqa had the same budget, to the last batch
    passes = [card_of(file)["budget"]["passes"] for file in files if file.stem.partition("+")[0] == "resnet-iqa"]
    assert max(passes) - min(passes) <= 128
