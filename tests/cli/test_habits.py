"""Habits of a shell: ``~`` in paths, output to other encodings, sizes that are rounded, names in capital letters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from iqarena.bench.cli.app import app

ROOT = Path(__file__).parents[2]

TINY = '''
from iqarena.models.base import ModelInfo, QualityModel
class Tiny(QualityModel):
    """Mean detail."""
    info = ModelInfo("tiny", score_range=(0.0, 1.0), min_size=8, paper="unpublished", licence="MIT")
    def forward(self, images):
        gray = images.mean(1)
        return 1 - 4 * (gray[..., 1:] - gray[..., :-1]).abs().mean((1, 2))
'''


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a data set and a model, beside the folder where commands run."""
    home = tmp_path / "home"
    (home / "set").mkdir(parents=True)
    for index in range(2):
        pixels = np.random.RandomState(index).randint(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home / "set" / f"{index}.png")
    (home / "set" / "labels.csv").write_text("image,reference_id,mos\n0.png,a,0\n1.png,b,1\n")
    (home / "tiny.py").write_text(TINY)
    (home / "s.yaml").write_text("dataset: folder\nmodels: ['file:~/tiny.py:Tiny']\nattacks: [fgsm]\n# größe ε\n", "utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(home))
    return home


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(home: Path) -> None:
    done = CliRunner().invoke(app, ["run", "~/s.yaml", "--root=~/set", "--out=~/o", "-d", "none"])
    assert done.exit_code == 0, done.output
    assert len(list((home / "o" / "cells").iterdir())) == 2
    done = CliRunner().invoke(app, ["data", "export", "folder", "~/exported", "--root", "~/set"])
    assert done.exit_code == 0, done.output
    assert len(list((home / "exported").iterdir())) == 2
    assert list(Path().iterdir()) == []


def test_a_tilde_elsewhere_is_a_letter(home: Path) -> None:
    done = CliRunner().invoke(app, ["run", "~/s.yaml", "--root=~/set", "--out", "a~b", "-d", "none"])
    assert done.exit_code == 0, done.output
    assert [path.name for path in Path().iterdir()] == ["a~b"]
    assert "no such folder" in str(CliRunner().invoke(app, ["data", "verify", "images", "--root", "~nobody/x"]).exception)


@pytest.mark.parametrize(
    ("eps", "hint"), [("2/255", ""), ("0.00784", "of which 1 can be used"), ("0.0313", "7/255 or 8/255")]
)
def test_a_size_that_is_rounded_down_is_said(home: Path, eps: str, hint: str) -> None:
    done = CliRunner().invoke(app, ["run", "~/s.yaml", "--root=~/set", "--out", "o", "--eps", eps, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert ("levels" in done.output) == bool(hint)
    assert hint in done.output


@pytest.mark.parametrize(
    ("encoding", "command"),
    [("ascii", ["run", "~/s.yaml", "--root=~/set", "--out=o", "-d", "none"]), ("cp1252", ["list", "attacks"])],
)
def test_no_encoding_of_the_output_ends_a_command_and_no_locale_a_suite(
    home: Path, encoding: str, command: list[str]
) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    args = [sys.executable, "-X", "utf8=0", "-m", "iqarena", *command]
    done = subprocess.run(args, check=False, capture_output=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr.decode("latin-1")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "name", "hint"), [("-a", "PGD", "pgd"), ("-m", "CNNIQA", "cnniqa"), ("-d", "JPEG", "jpeg")]
)
def test_a_name_in_capital_letters_has_its_hint(home: Path, option: str, name: str, hint: str) -> None:
    done = CliRunner().invoke(app, ["run", "~/s.yaml", "--root=~/set", "--out=o", option, name])
    assert f"did you mean {hint}?" in str(done.exception)
