"""The tutorial: its steps run, on a few images, and the page shows their output."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from iqarena import attacks
from iqarena.bench.cli import new as skeletons
from iqarena.bench.cli.app import app
from iqarena.bench.registry import ATTACKS

ROOT = Path(__file__).parents[2]


def loaded(name: str, file: Path):
    loading = importlib.util.spec_from_file_location(name, file)
    assert loading
    assert loading.loader
    module = importlib.util.module_from_spec(loading)
    sys.modules[name] = module  # dataclasses look there
    loading.loader.exec_module(module)
    return module


tutorial = loaded("tutorial_attack", ROOT / "docs/tutorial_attack.py")


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """A folder that looks like a checkout, in this process."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(skeletons, "ROOT", tmp_path)
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path / "attacks")])
    monkeypatch.setenv("COLUMNS", "118")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_steps_run_and_the_page_is_what_they_say(home: Path, monkeypatch) -> None:
    page = tutorial.PAGE.read_text(encoding="utf-8")

    def do(command: str) -> str:
        step = next(step for step in tutorial.STEPS if step.command == command)
        for old, new in step.shortened:
            assert old in command
            command = command.replace(old, new)
        if not command:
            return "\n".join(step.expected)
        tool, *args = command.split()
        if tool == "pytest":
            module = loaded("tutorial_test", home / args[-1])
            tests = [test for name, test in vars(module).items() if name.startswith("test_")]
            for test in tests:
                test()
            cls = sys.modules["iqarena.attacks.mine"].Mine
            monkeypatch.setitem(ATTACKS.entries, "mine", type(next(iter(ATTACKS.entries.values())))("mine", cls))
            output = f"{len(tests)} passed"
        else:
            done = CliRunner().invoke(app, args)
            assert done.exit_code == 0, done.output
            output = done.output.replace(f"{home}/", "")
        missing = [part for part in step.expected if part not in output]
        assert not missing, output
        return output

    try:
        written = tutorial.page(do, home / "attacks/mine.py")
    finally:
        sys.modules.pop("iqarena.attacks.mine", None)
    # what does not depend on how many images there were is the same, word for word: prose, commands and the edit
    for step in tutorial.STEPS:
        assert f"$ {step.command}" in page
        assert all(part in page for part in step.expected), "run python docs/tutorial_attack.py"
    assert written[: written.index("## 3.")] == page[: page.index("## 3.")], "run python docs/tutorial_attack.py"
    assert [line for line in written.splitlines() if line.startswith("## ")] == [
        line for line in page.splitlines() if line.startswith("## ")
    ]
