"""The command line as a user sees it: in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.progress import Progress, TextColumn
from typer.testing import CliRunner

from iqarena.attacks.base import Attack
from iqarena.bench.cli.app import app
from iqarena.bench.cli.catalogue import catalogue
from iqarena.bench.executors.progress import Reporter
from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS, Entry
from iqarena.defenses.base import Defense
from iqarena.models.base import ModelInfo, QualityModel

ROOT = Path(__file__).parents[2]


def iqarena(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "iqarena", *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
    )


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("models", {"cnniqa", "resnet-iqa"}),
        ("defenses", {"none", "jpeg", "adversarial-training", "cprl"}),
        ("attacks", {"random-noise", "fgsm", "pgd", "score-reflection", "score-reflection-away", "square",
                     "torchattacks:PGD", "art:ProjectedGradientDescent"}),
        ("datasets", {"demo", "folder"}),
    ],
)  # fmt: skip
def test_list_is_valid_json(kind: str, names: set[str]) -> None:
    done = iqarena("list", kind, "--json")
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)
    assert names <= {entry["name"] for entry in entries}
    assert all(entry["error"] is None for entry in entries)


def test_run_resumes_and_the_leaderboard_checks(tmp_path: Path) -> None:
    args = ["run", "--model", "resnet-iqa", "--defense", "none", "--attack", "pgd", "--attack", "random-noise"]
    args += ["--attack", "score-reflection", "--limit", "12", "--out", tmp_path / "r"]
    first = iqarena(*args)
    assert first.returncode == 0, first.stderr
    summary = (tmp_path / "r/summary.csv").read_bytes()
    table = pd.read_csv(tmp_path / "r/summary.csv")
    assert (table.status == "ok").all()
    assert table.linf_max.max() <= 2 / 255
    # the shipped model is real, and the attack reverses its ranking
    shift = table.groupby("attack").abs_gain.mean()
    assert shift["pgd"] >= 10 * shift["random-noise"]
    reflected = table[table.attack == "score-reflection"]
    assert (reflected.srocc_clean > 0.6).all()
    assert (reflected.srocc_adv < 0).all()

    second = iqarena(*args)
    assert "0 cells run, 6 kept" in second.stdout
    assert (tmp_path / "r/summary.csv").read_bytes() == summary

    rendered = iqarena("leaderboard", "--results", tmp_path / "r", "--out", tmp_path / "r")
    assert rendered.returncode == 0, rendered.stderr
    assert "pseudo-MOS" in (tmp_path / "r/leaderboard.md").read_text()
    assert len(list((tmp_path / "r/plots").glob("*.png"))) >= 3
    check = ["leaderboard", "--results", tmp_path / "r", "--out", tmp_path / "r", "--check"]
    assert iqarena(*check).returncode == 0
    (tmp_path / "r/leaderboard.md").write_text("edited by hand")
    assert iqarena(*check).returncode == 1


def test_attack_writes_images_and_says_what_happened(tmp_path: Path) -> None:
    from skimage import data

    Image.fromarray(data.astronaut()[:128, 130:290]).save(tmp_path / "a.png")
    args = ["--model", "resnet-iqa", "--attack", "score-reflection-away", "--out", tmp_path]
    done = iqarena("attack", tmp_path / "a.png", *args)
    assert done.returncode == 0, done.stderr
    before, after = (np.asarray(Image.open(tmp_path / f"a-{name}.png")).astype(int) for name in ("before", "after"))
    assert 1 <= np.abs(after - before).max() <= 2
    assert (tmp_path / "a-sheet.png").is_file()
    assert "quality after" in done.stdout


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "broken.yaml").write_text("models: [resnet-iqa\nattacks: [pgd]\n")
    (tmp_path / "mistyped.yaml").write_text("models: [resnet-iqa]\nattacks: [pgd]\nlimit: many\n")
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (80, 80)).save(tmp_path / "gray.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (80, 80)).save(tmp_path / "fine.png")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("run --attack pgdd --out OUT", "unknown attack 'pgdd'; did you mean pgd"),
        ("run --model resnet --out OUT", "unknown model 'resnet'; did you mean resnet-iqa"),
        ("run --defense cpl --out OUT", "unknown defense 'cpl'; did you mean cprl"),
        ("run --dataset demmo --out OUT", "unknown data set 'demmo'; did you mean demo"),
        ("run --attack pgd[stops=3] --out OUT", "has no parameter 'stops'; did you mean steps"),
        ("run --attack pgd[steps=none] --out OUT", "steps"),
        ("run --attack pgd[steps=0] --out OUT", "steps and restarts must be at least 1"),
        ("run --eps 0 --out OUT", "eps"),
        ("run --eps 2 --out OUT", "eps"),
        ("run --eps two --out OUT", "neither a number nor a fraction"),
        ("run broken.yaml --out OUT", "broken.yaml:2"),
        ("run mistyped.yaml --out OUT", "mistyped.yaml:3: field limit"),
        ("run nowhere.yaml --out OUT", "nowhere.yaml: cannot be read"),
        ("run --out text.png/below", "choose another --out"),
        ("run --address auto --out OUT", "--address is of a Ray cluster, and --executor local uses none; add"),
        ("run --executor processes --address auto --dry-run --out OUT", "--executor processes uses none"),
        ("run --dataset folder --out OUT", "needs --root"),
        ("attack nothing.png --model resnet-iqa --attack pgd", "nothing.png: no such file"),
        ("attack text.png --model resnet-iqa --attack pgd", "text.png: not a readable image"),
        ("attack gray.png --model resnet-iqa --attack pgd", "mode L is not 8-bit RGB"),
        ("attack small.png --model resnet-iqa --attack pgd", "is 20×20; resnet-iqa needs 64×64"),
        ("attack fine.png --model resnet-iqa --attack pgd --objective up", "objectives"),
        ("attack fine.png --model cnniqa --defense cprl --attack pgd", "no trained weights of cprl for cnniqa"),
        ("leaderboard --results nowhere", "no records"),
        ("leaderboard --results nowhere --check --prune-images", "--check writes nothing and --prune-images deletes"),
        ("data export demo OUT --limit 0", "Invalid value for '--limit'"),
        ("train --model resnet-iqa --defense jpeg --dataset demo", "jpeg is not trained"),
        ("list things", "Invalid value"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_clear_line_and_exit_2(files: Path, command: str, message: str) -> None:
    done = iqarena(*command.replace("OUT", str(files / "out")).split(), cwd=files)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr.replace("\n", " ") or message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


# --- in this process


@dataclass(frozen=True)
class Demanding(Attack):
    """[red]Has to be given something[/nothing]."""

    name, access, paper = "demanding", "score", ""

    amount: float

    def run(self, target, images, objective, threat, generator):
        return images


@dataclass(frozen=True)
class Insisting(Defense):
    """Has to be given something."""

    name, kind = "insisting", "purification"

    amount: float

    def protect(self, model: QualityModel) -> QualityModel:
        return model


class Late(QualityModel):
    """Says what it is when it is made, as one behind an entry point can."""

    def __init__(self) -> None:
        super().__init__()
        self.info = ModelInfo("late")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))


class Unmade(QualityModel):
    """Has to be given something."""

    info = ModelInfo("unmade")

    def __init__(self, path: str) -> None:
        super().__init__()


BROKEN = [
    ("attacks", ATTACKS, "demanding", Demanding, "attack 'demanding': amount: "),
    ("defenses", DEFENSES, "insisting", Insisting, "defense 'insisting': amount: "),
    ("models", MODELS, "late", Late, "AttributeError: type object 'Late' has no attribute 'info'"),
    ("models", MODELS, "unmade", Unmade, "TypeError: "),
]


@pytest.mark.parametrize(("kind", "registry", "name", "cls", "message"), BROKEN, ids=[case[2] for case in BROKEN])
def test_a_plugin_that_loads_and_cannot_be_asked_is_listed_with_its_error(
    monkeypatch: pytest.MonkeyPatch, kind, registry, name, cls, message
) -> None:
    others = [entry for entry in catalogue(kind) if entry["error"] is None]
    monkeypatch.setitem(registry.entries, name, Entry(name, cls))
    entries = {entry["name"]: entry for entry in catalogue(kind)}
    assert entries.pop(name)["error"].startswith(message)
    assert list(entries.values()) == others
    done = CliRunner().invoke(app, ["list", kind], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert f"broken: {message}" in done.output


def test_what_plugins_say_of_themselves_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"name": "a[bold]", "access": "score", "norms": ["linf"], "about": "Takes [red]steps[/nothing].", "error": None},
        {"name": "b", "error": "ValueError: [/bold] is missing"},
    ]
    monkeypatch.setattr("iqarena.bench.cli.catalogue.catalogue", lambda kind: entries)
    result = CliRunner().invoke(app, ["list", "attacks"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert all(text in result.output for text in ("a[bold]", "Takes [red]steps[/nothing].", "broken: ValueError: [/bold]"))


def test_progress_shows_the_brackets_of_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(progress: Progress) -> str:
        first = progress.columns[0]
        assert isinstance(first, TextColumn)
        return first.render(progress.tasks[0]).plain

    with Reporter() as report:
        report.update("cnniqa · pgd[steps=40] · away", 1, 2)
        assert shown(report.progress) == "cnniqa · pgd[steps=40] · away"
    looked: list[Progress] = []

    class Seen(Progress):
        def __init__(self, *columns, **options) -> None:
            super().__init__(*columns, **options)
            looked.append(self)

    monkeypatch.setattr("rich.progress.Progress", Seen)
    CliRunner().invoke(app, ["data", "verify", "folder[labels=mine]"])
    assert shown(looked[0]) == "looking at folder[labels=mine]"
