"""`iqarena new` writes files that pass their tests unchanged; a separate package is installed and run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import iqarena.defenses.purification
from iqarena import attacks, models
from iqarena.bench.cli import new as skeletons
from iqarena.bench.errors import UserError

ROOT = Path(__file__).parents[2]
NAMES = ["mine", "q", "zebra-2", "a-name-of-forty-characters-which-is-long"]


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A folder that looks like a checkout, from which the packages import modules too."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(skeletons, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path / "tests")
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path / "attacks")])
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "models")])
    purification = iqarena.defenses.purification
    monkeypatch.setattr(purification, "__path__", [*purification.__path__, str(tmp_path / "defenses/purification")])
    return tmp_path


def run_tests_of(file: Path) -> int:
    """Call each test of a file in this process; return their number."""
    loading = importlib.util.spec_from_file_location(f"written_{file.stem}", file)
    assert loading
    assert loading.loader
    module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    for test in tests:
        test()
    return len(tests)


@pytest.mark.parametrize("name", ["mine", "zebra-2"])
@pytest.mark.parametrize("kind", skeletons.FOLDERS)
def test_what_is_written_into_the_project_passes_its_own_test(kind: str, name: str, checkout: Path) -> None:
    (plugin, test), after = skeletons.new(kind, name)
    assert plugin.parent == checkout / skeletons.FOLDERS[kind]
    assert "TODO" in plugin.read_text()
    assert "my" not in plugin.name
    assert run_tests_of(test) == 2
    assert after == [f"pytest tests/{kind}s/{test.name}", f"iqarena check {name}"]


@pytest.mark.parametrize("kind", skeletons.FOLDERS)
def test_what_is_written_as_a_package_passes_its_own_test(kind: str, tmp_path: Path, monkeypatch) -> None:
    (pyproject, plugin, test), _ = skeletons.new(kind, "far-away", tmp_path / "own")
    monkeypatch.syspath_prepend(tmp_path / "own")
    monkeypatch.delitem(sys.modules, "iqarena_far_away", raising=False)
    assert run_tests_of(test) == 2
    assert f'[project.entry-points."iqarena.{kind}s"]\nfar-away = "iqarena_far_away:FarAway"' in pyproject.read_text()
    assert plugin.name == "iqarena_far_away.py"


@pytest.mark.parametrize("name", NAMES)
def test_the_linter_has_nothing_to_say(name: str, checkout: Path) -> None:
    ruff = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))
    if not ruff:
        pytest.skip("ruff is not installed")
    for package in ("attacks", "bench", "defenses", "models"):  # so that the linter recognises its imports as first-party
        for file in (ROOT / package).rglob("*.py"):
            copied = checkout / file.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.touch()
    written = [str(file) for kind in skeletons.FOLDERS for file in skeletons.new(kind, name)[0]]
    for args in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [ruff, *args, "--no-cache", *written], capture_output=True, text=True, check=False, cwd=checkout
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("attack", "Mine", "is no name"),
        ("attack", "mine_too", "is no name"),
        ("attack", "1st", "is no name"),
        ("attack", "../mine", "is no name"),
        ("attack", "x" * 41, "is no name"),
        ("attack", "pgd", "is taken"),
        ("defense", "jpeg", "is taken"),
        ("model", "cnniqa", "is taken"),
        ("attack", "class", "is a word"),
        ("attack", "target", "is a word"),
        ("attack", "attack", "is a word"),
    ],
)
def test_a_name_that_will_not_do_is_refused_and_nothing_is_written(
    kind: str, name: str, message: str, checkout: Path
) -> None:
    with pytest.raises(UserError, match=message):
        skeletons.new(kind, name)
    assert not (checkout / "attacks").exists()


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    skeletons.new("attack", "mine", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is there already; nothing was written"):
        skeletons.new("defense", "mine", tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_outside_of_the_checkout_it_is_a_package_in_the_working_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files, after = skeletons.new("attack", "mine")
    assert files[0] == Path("iqarena-mine/pyproject.toml")
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} == set(files)
    assert after[0] == "pip install -e iqarena-mine"


def test_the_example_package_is_installed_and_run(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(
        ROOT / "tests/example_plugin", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", target, source], capture_output=True, text=True, check=False)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("setuptools is not installed, and a package cannot be built without it")
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"PYTHONPATH": f"{target}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}

    def iqarena(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "iqarena", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
            check=False,
        )

    done = iqarena("list", "attacks", "--json")
    listed = {entry["name"]: entry["error"] for entry in json.loads(done.stdout)}
    assert listed["example-step"] is None
    assert "NotThere" in listed["example-broken"]
    options = ["-m", "example-mean", "-d", "example-shift", "-a", "example-step", "--dataset", "example-ramps"]
    done = iqarena("run", *options, "--out", "runs/example")
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(tmp_path / "runs/example/summary.csv")
    assert len(table) == 2, "oblivious and adaptive"
    assert (table.status == "ok").all()
    assert (table.n_images == 4).all()
    # a mean of half the values that all move by 2/255 moves by 2/255 where the attacker knows of the shift
    adaptive = table[table.setting == "adaptive"]
    assert adaptive.abs_gain.to_numpy() == pytest.approx(2 / 255, abs=1e-6)
