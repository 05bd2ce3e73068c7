"""The way in: what CONTRIBUTING.md and the README tell people to type exists, and GitHub's files can be read."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import typer
import yaml

from bench.cli import app

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github").rglob("*.yml"))


def test_every_command_that_people_are_told_to_type_exists() -> None:
    group = typer.main.get_command(app)
    told = 0
    for page in ("CONTRIBUTING.md", "README.md", "docs/tutorial-attack.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for line in re.findall(r"(?:^|[$`(&] ?)iqarena ([a-z][^`#\n&|]*)", text, re.MULTILINE):
            words, command = line.split(), group
            while hasattr(command, "commands"):
                assert words[0] in command.commands, f"{page}: iqarena {line}"
                command = command.commands[words.pop(0)]
                if not words:
                    break
            options = {name for parameter in command.params for name in parameter.opts}
            unknown = {word for word in words if word.startswith("-")} - options
            assert not unknown, f"{page}: iqarena {line}: {unknown}"
            told += 1
    assert told > 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_github_files_are_yaml_with_what_they_need(file: Path) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.parent.name == "workflows":
        assert content["permissions"] == {"contents": "read"}
        assert "pull_request_target" not in file.read_text().partition("permissions")[2]
        for job in content["jobs"].values():
            assert all("uses" in step or "run" in step for step in job["steps"])
    elif file.stem != "config":
        assert {"name", "description", "body"} <= set(content)
        ids = [field["id"] for field in content["body"]]
        assert len(ids) == len(set(ids))


def test_templates_are_for_an_attack_a_defense_and_a_better_attack() -> None:
    names = {file.stem for file in FILES if file.parent.name == "ISSUE_TEMPLATE"}
    assert {"new-attack", "new-defense", "better-attack"} <= names
    assert "iqarena check" in (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")


def test_a_changed_file_is_known_by_the_plugins_in_it() -> None:
    loading = importlib.util.spec_from_file_location("check_changed", ROOT / ".github/check_changed.py")
    assert loading
    assert loading.loader
    module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    files = ["attacks/fgsm.py", "models/cnniqa.py", "attacks/base.py"]
    assert module.plugins_in(files) == ["cnniqa", "fgsm"]
    assert module.plugins_in([]) == []
