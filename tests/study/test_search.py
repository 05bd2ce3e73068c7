"""The search: all candidates are trained and attacked alike, and an interrupted search is resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from iqarena.bench.api import evaluate
from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import Subset
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES
from iqarena.bench.study import search
from iqarena.bench.study.search import Search, main, read_recipes, share
from iqarena.defenses.training.loop import Schedule

RECIPES = ["adversarial-training", "adversarial-training[adversarial_weight=2]"]
PASSES = 4 * 32  # one step each


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten noisy images, four of them for validation."""
    folder = tmp_path_factory.mktemp("labelled")
    stream = np.random.default_rng(0)
    rows = []
    for number in range(10):
        pixels = np.clip(128 + stream.normal(0, 5 + 5 * number, (40, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append((f"{number}.png", str(number), 1 - number / 10, "training" if number % 5 > 1 else "validation"))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos", "split"]).to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = Demo()
    monkeypatch.setattr("iqarena.bench.training.Demo", lambda: Subset(demo, demo.spread(2)))


def build_search(root: Path, out: Path) -> Search:
    schedule = Schedule(passes=PASSES, crop=32, ema=0.5, workers=0)
    return Search("cnniqa", root, schedule, out, attacks=["pgd[steps=2]", "fgsm"], limit=4)


def test_a_search_trains_attacks_and_goes_on_where_it_was(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(build_search(root, tmp_path / "a").rows(RECIPES))
    assert [row["recipe"] for row in whole] == RECIPES
    assert {(row["images"], row["passes"]) for row in whole} == {(4, PASSES)}
    assert all(-1 <= row["robust SROCC"] <= 1 for row in whole)
    monkeypatch.setattr(search, "fit", lambda *_, **__: pytest.fail("trained anew"))
    assert list(build_search(root, tmp_path / "a").rows(RECIPES)) == whole
    assert len(list((tmp_path / "a").glob("*/records/cells/*"))) == 4


def test_a_row_is_what_an_evaluation_of_the_weights_says_wherever_they_lie(root: Path, tmp_path: Path) -> None:
    (row,) = build_search(root, tmp_path / "a").rows(RECIPES[1:])
    (file,) = (tmp_path / "a").glob("*/*.safetensors")
    moved = tmp_path / "elsewhere.safetensors"
    for suffix in (".safetensors", ".yaml"):
        moved.with_suffix(suffix).write_bytes(file.with_suffix(suffix).read_bytes())
    # the same random numbers as the search drew: the name is the same, and the folder does not matter
    with search.as_candidate(RECIPES[1], moved):
        cells = pd.DataFrame(evaluate(
            "cnniqa", ["pgd[steps=2]", "fgsm"], open_dataset("folder[part=validation]", root), defenses=["candidate"],
            limit=4,
        ))  # fmt: skip
    assert "candidate" not in DEFENSES.entries
    assert cells.srocc_adv.min() == row["robust SROCC"]
    assert cells.abs_gain.max() == row["largest mean |shift|"]


def test_parts_make_up_the_list_and_a_list_has_comments(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# what is tried\ncprl\n\ntrades[beta=1]  # less\ncprl[keep=0.3]\n")
    assert read_recipes(file) == ["cprl", "trades[beta=1]", "cprl[keep=0.3]"]
    assert share(read_recipes(file), "1/2") == ["cprl", "cprl[keep=0.3]"]
    assert share(read_recipes(file), "2/2") == ["trades[beta=1]"]
    assert share(read_recipes(file), "") == read_recipes(file)
    for part in ("0/2", "3/2", "a", "1/0"):
        with pytest.raises(UserError, match="is not of the form 1/2"):
            share([], part)
    with pytest.raises(UserError, match="cannot be read"):
        read_recipes(tmp_path / "none.txt")


def test_wrong_use_is_one_line_before_anything_is_trained(root: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    for more, message in ((["cprl", "cprl[kept=1]"], "no parameter 'kept'"), ([], "no recipe")):
        result = CliRunner().invoke(app, ["cnniqa", *more, "--root", str(root), "--out", str(tmp_path / "o")])
        assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
        assert message in result.output
    assert not (tmp_path / "o").exists()


def test_the_table_is_written_row_by_row(root: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    arguments = ["cnniqa", RECIPES[0], "--root", str(root), "--out", str(tmp_path), "--passes", str(PASSES), "--crop", "32",
                 "--attack", "fgsm", "--limit", "4"]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "search.csv")
    assert list(table.recipe) == RECIPES[:1]
    assert list(table["worst attack"]) == ["fgsm"]
