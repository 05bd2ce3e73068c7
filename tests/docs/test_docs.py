"""Documentation pages: links resolve, and lists are complete."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = [unquote(link) for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")) if ":" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_dependency_has_a_line_that_says_why() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    extras = {
        (re.split(r"[<>=\[]", line)[0], extra) for extra, lines in project["optional-dependencies"].items() for line in lines
    }
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert wanted == {row[0] for row in rows if len(row) == 2 and row[0] != "package"}
    named = {(row[0], row[1]) for row in rows if len(row) == 3 and row[0] != "package"}
    assert {package for package, _ in extras} == {package for package, _ in named}
    assert named <= extras
    assert all(row[-1] for row in rows)


def test_the_site_names_pages_that_exist() -> None:
    def pages(entries) -> list[str]:
        return [
            page
            for entry in entries
            for value in entry.values()
            for page in ([value] if isinstance(value, str) else pages(value))
        ]

    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert len(named) == len(set(named)) > 20
