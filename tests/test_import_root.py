"""The import root: other people's `models`, `attacks`, `utils` beside ours, and a copy of the project that is itself."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_runs import four_images

ROOT = Path(__file__).parents[1]
ROOMS = ("bench", "attacks", "defenses", "models", "bench.evaluation", "bench.results.store", "attacks.pgd", "models.zoo")

NETWORK = """
import torch
from utils import SCALE

class Net(torch.nn.Module):
    def forward(self, images):
        gray = images.mean(1)
        return 1 - SCALE * (gray[..., 1:] - gray[..., :-1]).abs().mean((1, 2))
"""
PLUGINS = """
from dataclasses import dataclass
from typing import ClassVar

import bench
import datasets
from attacks.step import sign_of
from models.net import Net
from iqarena import Attack, ModelInfo, QualityModel

class Mine(QualityModel):
    info = ModelInfo("mine", score_range=(0.0, 1.0), min_size=8)

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, images):
        return self.net(images)

@dataclass(frozen=True)
class Step(Attack):
    "One step along the gradient's sign."
    name: ClassVar[str] = "step"
    access: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf",)

    def run(self, target, images, objective, threat, generator):
        _, gradient = target.quality_and_grad(images, objective.loss)
        return threat.snap(threat.project(images - threat.size * sign_of(gradient), images), images)
"""
EVALUATE = """
import attacks.step, bench, datasets, defenses, models.net, utils
from iqarena import evaluate, open_dataset
report = evaluate(models.net.Net(), attacks=["fgsm"], dataset=open_dataset("folder", __import__("pathlib").Path("data")))
print(len(report), report.status[0], report.model[0])
"""
TEST = """
from iqarena.bench.checks import LinearToy, run_on_toy_model
from models.net import Net

def test_theirs_and_ours():
    assert Net and LinearToy and run_on_toy_model
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder as an image quality repository has it, with names that are ours too."""
    files = {
        "models/__init__.py": "",
        "models/net.py": NETWORK,
        "attacks/__init__.py": "",
        "attacks/step.py": "def sign_of(gradient):\n    return gradient.sign()\n",
        "bench/__init__.py": "",
        "defenses/__init__.py": "",
        "datasets/__init__.py": "",
        "utils.py": "SCALE = 4\n",
        "models.py": "raise RuntimeError('the folder comes first')\n",
        "plugins.py": PLUGINS,
        "evaluation.py": EVALUATE,
        "test_theirs.py": TEST,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    four_images(tmp_path / "data")
    return tmp_path


def run(folder: Path, *words: str, path: Path = ROOT) -> str:
    """Run Python in a folder and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_evaluate_takes_a_module_of_theirs(theirs: Path) -> None:
    assert run(theirs, "evaluation.py").split() == ["1", "ok", "Net"]


COMMAND = (
    *("run", "-m", "file:plugins.py:Mine", "-d", "none", "-d", "jpeg", "-a", "file:plugins.py:Step"),
    *("--dataset", "folder", "--root", "data"),
)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--executor", "processes", "--workers", "2"),
        pytest.param(
            ("--executor", "ray", "--workers", "1"),
            marks=pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
        ),
    ],
)
def test_the_command_line_takes_plugins_that_import_theirs(theirs: Path, more: tuple[str, ...]) -> None:
    assert "0 not ok" in run(theirs, "-m", "iqarena", *COMMAND, *more, "--out", "out")
    statuses = [json.loads(file.read_text())["status"] for file in theirs.glob("out/cells/*/record.json")]
    assert statuses == ["ok"] * len(statuses)
    assert len(statuses) >= 2


def test_the_command_finds_what_lies_beside_a_plugin_in_another_folder(
    theirs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    words = [word.replace("file:", f"file:{theirs}/") if word.startswith("file:") else word for word in COMMAND[:-1]]
    assert "0 not ok" in run(elsewhere, "-m", "iqarena", *words, str(theirs / "data"), "--out", "out")


def test_their_pytest_imports_both(theirs: Path) -> None:
    assert "1 passed" in run(theirs, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py")


@pytest.mark.parametrize("installed", [True, False])
def test_a_copy_of_the_project_takes_every_module_from_itself(tmp_path: Path, installed: bool) -> None:
    copy = tmp_path / "copy"
    for name in ("iqarena", "bench", "attacks", "defenses", "models"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    uninstall = "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]; "
    code = "import importlib, sys; " + ("" if installed else uninstall)
    code += f"print(*(importlib.import_module('iqarena.' + room).__file__ for room in {ROOMS}), sep='\\n')"
    places = run(tmp_path, "-c", code, path=copy).splitlines()
    assert len(places) == len(ROOMS)
    assert all(Path(place).is_relative_to(copy) for place in places), places


def test_a_record_made_in_a_checkout_names_its_commit() -> None:
    from iqarena.bench.results.provenance import provenance

    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert provenance()["commit"] == head
