"""Documents for contributors: the commands in CONTRIBUTING.md and the README exist, and GitHub's files can be read."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import typer
import yaml

from iqarena.bench.cli.app import app, main

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
FILES = sorted((ROOT / ".github").rglob("*.yml"))


def test_every_command_that_people_are_told_to_type_exists() -> None:
    group = typer.main.get_command(app)
    count = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in re.findall(r"(?:^|[$`(&] ?)iqarena ([a-z][^`#\n&|]*)", text, re.MULTILINE):
            args, command = line.split(), group
            while hasattr(command, "commands"):
                assert args[0] in command.commands, f"{page.name}: iqarena {line}"
                command = command.commands[args.pop(0)]
                if not args:
                    break
            options = {name for parameter in command.params for name in parameter.opts}
            unknown = {word for word in args if word.startswith("-")} - options
            assert not unknown, f"{page.name}: iqarena {line}: {unknown}"
            count += 1
    assert count > 20


def test_the_readmes_figures_are_those_of_the_board() -> None:
    readme, board = (ROOT.joinpath(name).read_text(encoding="utf-8") for name in ("README.md", "leaderboard.md"))
    (image,) = re.findall(r"\[!\[(.+?)\]\((results/[^)]+)\)", readme)
    assert f"[![{image[0]}]({image[1]})" in board, "the image's text is not that of the board"
    track = board.partition("## demo, linf, ε = 2/255")[2].partition("\n## ")[0]
    figures = re.findall(r"\b([a-z-]+) (\d\.\d\d) → (−?\d\.\d\d)", " ".join(readme.split()))
    assert len(figures) >= 4
    for defense, clean, robust in figures:
        assert re.search(rf"\| resnet-iqa \| {defense}[^|]*\| {clean} [^|]*\| \*\*{robust}\*\* ", track), (
            defense,
            robust,
            clean,
        )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("submit images nowhere -m cnniqa --eps 2/255", "nowhere: no such folder"),
        ("submit images EMPTY -m cnniqa --eps 2/255", "at least 2 images are wanted"),
        ("submit images EMPTY -m nique --eps 2/255", "did you mean niqe"),
        ("submit images EMPTY -m cnniqa --eps 0", "eps 0 is outside"),
        ("submit images EMPTY -m cnniqa --eps nan", "neither a number nor a fraction"),
        ("submit images EMPTY -m cnniqa --eps 2/255 --dataset kadid10k", "needs --root"),
        ("submit images EMPTY -m cnniqa --eps 2/255 --name ###", "no name of letters"),
        ("submit defense nowhere.safetensors -m resnet-iqa -d adversarial-training", "cannot be read"),
        ("submit defense EMPTY -m resnet-iqa -d adversarial-training", "weights come as .safetensors"),
        ("submit defense nowhere.safetensors -m resnet -d adversarial-training", "did you mean resnet-iqa"),
        ("submit attack pgd --results EMPTY", "has no records of pgd"),
        ("submit attack file:nowhere.py:Mine --results EMPTY", "with a file that exists"),
        ("verify nowhere.zip", "no such file"),
        ("verify EMPTY", "not a file"),
        ("new attack No-Name", "small letters and digits"),
        ("check nowhere.py", "nowhere.py"),
    ],
)
def test_wrong_use_of_a_command_is_one_clear_line_and_exit_2(
    args: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["iqarena", *(word.replace("EMPTY", "empty") for word in args.split())])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    output = capsys.readouterr().err
    assert message in output
    assert output.startswith("iqarena: ")
    assert output.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["empty"]


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
