"""The shape of the project: which package may import which, how large folders and files may be, what CI runs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from iqarena.models.zoo import ZOO, card_of, sha256_of

ROOT = Path(__file__).parents[1]
FOLDERS = ("iqarena", "bench", "attacks", "defenses", "models")
MOST_MODULES, MOST_LINES = 12, 400
HEAVY = {
    *("art", "diffusers", "huggingface_hub", "matplotlib", "onnxruntime", "openpyxl", "piq", "pyiqa", "ray", "rich"),
    *("selenium", "skimage", "sklearn", "torch", "torchattacks", "torchvision", "typer", "xlrd"),
}
"""Libraries that are optional, or that a command which does not need them should not wait for."""


def files(*folders: str) -> list[Path]:
    """The Python files of some folders."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def python(folder: Path, path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a folder, in a process that finds the project in `path` alone."""
    environment = {"PYTHONPATH": str(path), "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the project is installed as a wheel, as others get it."""
    copy, target = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *FOLDERS, "pyproject.toml", "setup.py", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in tracked.stdout.splitlines():  # a stale build/ of the checkout would go into the wheel
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target), "."]
    done = subprocess.run(pip, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_a_wheel_has_iqarena_alone_at_its_top(wheel: Path) -> None:
    tops = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info") and path.name != "bin"}
    assert tops == {"iqarena"}
    for needed in (
        "py.typed",
        "bench/suites/quick.yaml",
        "bench/datasets/demo/demo.csv",
        "bench/leaderboard/site/page.html",
        "models/zoo/cnniqa.safetensors",
    ):
        assert (wheel / "iqarena" / needed).is_file(), needed


def test_a_wheel_runs_where_there_is_no_checkout(wheel: Path, tmp_path: Path) -> None:
    code = "import iqarena.bench.api, iqarena.models; print(iqarena.bench.__file__, iqarena.models.__file__)"
    done = python(tmp_path, wheel, code)
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(wheel) for file in done.stdout.split())


def test_the_committed_leaderboard_is_the_same_wherever_the_project_is_installed(wheel: Path) -> None:
    code = "import sys; sys.path.remove(''); sys.argv = ['iqarena', 'leaderboard', '--check']; "
    code += "from iqarena.bench.cli import app; assert 'wheel' in app.__file__; app.main()"
    done = python(ROOT, wheel, code)
    assert done.returncode == 0, done.stdout + done.stderr


def lint_imports(folder: Path) -> str:
    """Run the import linter on the package in a folder; its graph follows folders, so it needs the wheel."""
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = python(folder, folder, code)
    return f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def test_arrows_between_packages_and_rooms_point_one_way(wheel: Path) -> None:
    assert lint_imports(wheel).startswith("exit 0")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("attacks/fgsm.py", "import iqarena.bench\n"),
        ("attacks/fgsm.py", "from iqarena.models.base import QualityModel\n"),
        ("models/cnniqa.py", "def late():\n    from iqarena.defenses.base import Defense\n"),
        (
            "bench/metrics/measures.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import iqarena.bench.suite\n",
        ),
        ("bench/leaderboard/board.py", "from iqarena.bench.evaluation import evaluator\n"),
    ],
)
def test_an_arrow_that_points_the_wrong_way_is_seen(wheel: Path, file: str, text: str) -> None:
    path = wheel / "iqarena" / file
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"{before}\n{text}", encoding="utf-8")
        assert "BROKEN" in lint_imports(wheel)
    finally:
        path.write_text(before, encoding="utf-8")


def test_no_folder_of_bench_has_more_than_a_dozen_modules() -> None:
    for folder in {file.parent for file in files("bench")}:
        modules = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, folder


def test_no_file_is_longer_than_a_reader_bears() -> None:
    long = {
        file: count
        for file in files(*FOLDERS, "tests", "docs")
        if (count := len(file.read_text().splitlines())) > MOST_LINES
    }
    assert not long


def docstrings(file: Path) -> Iterator[str]:
    """The docstrings of a file, and the texts below its constants."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def test_docstrings_begin_as_sentences_do_that_engineers_write() -> None:
    for file in files(*FOLDERS, "tests", "docs"):
        for text in docstrings(file):
            assert text.split()[:1] not in (["What"], ["Of"]), f"{file}: {text[:80]}"


def late_imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of the imports inside functions."""
    for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from ((node.lineno, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield node.lineno, node.module or ""


def test_imports_stand_at_the_top_but_for_the_command_line_and_heavy_libraries() -> None:
    for file in files("bench", "attacks", "defenses", "models"):
        if "cli" in file.relative_to(ROOT).parts or file.name in ("__main__.py", "sandboxed_attack.py"):
            continue  # a command imports what it needs when it runs; the sandbox sets its limits first
        late = [found for found in late_imports(file) if found[1].partition(".")[0] not in HEAVY]
        assert not late, f"{file}: {late}"


def test_the_core_imports_no_torchvision() -> None:
    for file in files(*FOLDERS):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.partition(".")[0] == "torchvision" for name in names), file


@pytest.mark.parametrize("package", ["bench", "attacks", "defenses", "models"])
def test_a_folder_imports_below_iqarena_alone(package: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {package}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"import iqarena.{package} instead of {package}" in done.stderr


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    set_up_and_test = 'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" && .venv/bin/pytest -n 2'
    set_up_and_run = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/iqarena run"
    for command in (set_up_and_test, set_up_and_run):
        assert command in readme
        assert command in ci


def test_the_versions_of_the_linter_and_the_type_checker_are_pinned_in_one_place() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (ruff,) = [need for need in extras["lint"] if need.startswith("ruff")]
    assert ruff in (ROOT / "tox.ini").read_text()


@pytest.mark.parametrize("name", ["attacks.md", "datasets.md", "models.md"])
def test_the_pages_of_the_registries_are_what_they_say(name: str) -> None:
    from docs.reference import PAGES

    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run python -m docs.reference"


def test_every_shipped_weight_file_has_its_card() -> None:
    weights = sorted(ZOO.glob("*.safetensors"))
    assert len(weights) >= 4
    for file in weights:
        card = card_of(file)
        assert card["sha256"] == sha256_of(file)
        assert {"data", "measured", "licence"} <= set(card)
        assert "fit" in card or {"schedule", "budget"} <= set(card)  # fitted in one go, or trained
        assert file.stat().st_size < 6 * 2**20
    # the three variants of resnet-iqa had the same budget, to the last batch
    passes = [card_of(file)["budget"]["passes"] for file in weights if file.stem.partition("+")[0] == "resnet-iqa"]
    assert max(passes) - min(passes) <= 128
