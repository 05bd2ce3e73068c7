"""Deeds of plugins that end no run, in every executor, and runs that craft in another process."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from iqarena.bench import registry
from iqarena.bench.errors import UserError
from iqarena.bench.executors import Executor
from iqarena.bench.registry import ATTACKS
from iqarena.bench.results.store import Records
from tests.support.small_runs import four_images, go, suite, table

REMOVED = "it removed the working folder"
DEEDS = {
    "base_exception": "Unheard: of",
    "interrupt": "KeyboardInterrupt: ",
    "no_folder": REMOVED,
    "no_json": "it changed json.dumps in this process; that was put back",
    "no_relu": "it changed torch.nn.functional.relu in this process; that was put back",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return four_images(tmp_path / "images")


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of this test load plugins of other packages again afterwards."""
    monkeypatch.setattr(registry, "_admitted", [])


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(("executor", "isolate"), [("local", False), ("processes", False), ("local", True)])
def test_a_plugin_that_breaks_the_process_fails_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor, isolate: bool
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("iqarena.bench.process._stops", [None])  # as in the command line, where signals raise `Stopped`
    outcome = go(suite(*DEEDS, "nothing", "fgsm[]"), root, tmp_path / "out", executor, isolate=isolate)
    errors = {cell.attack.partition("deed=")[2].rstrip("]"): (status, error) for cell, status, error in outcome.failed}
    assert list(errors) == list(DEEDS)
    assert {status for status, _ in errors.values()} == {"failed"}
    assert all(error.startswith(DEEDS[deed]) for deed, (_, error) in errors.items()), errors
    assert Path.cwd() == tmp_path / "here"
    assert table(tmp_path / "out").status.tolist().count("ok") == 2


@pytest.mark.parametrize("deed", ["past_score", "past_gradient", "past_layer"])
def test_an_attack_that_asks_past_the_target_is_a_violation(root: Path, tmp_path: Path, deed: str) -> None:
    outcome = go(suite(deed, "nothing"), root, tmp_path / "out", "local")
    ((_, status, error),) = outcome.failed
    assert status == "violation"
    assert error.startswith("it scored ")
    assert error.endswith("images past the target" + (", and could take their gradients" if deed == "past_gradient" else ""))


def test_a_model_that_an_attack_changes_is_loaded_anew(root: Path, tmp_path: Path) -> None:
    outcome = go(suite("hook", "rename", "train", "nothing"), root, tmp_path / "out", "local")
    assert [error for _, _, error in outcome.failed] == [
        "the hooks of cnniqa were changed meanwhile; the models were loaded anew",
        "the info of cnniqa were changed meanwhile; the models were loaded anew",
        "it left the model in training mode; that was put back",
    ]


@pytest.mark.usefixtures("isolated")
def test_an_isolated_run_has_the_numbers_of_any_other_and_loads_no_attack_of_others(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "apart.py"
    file.write_text((Path(__file__).parents[1] / "support" / "misbehaving.py").read_text(encoding="utf-8"), encoding="utf-8")
    chosen = suite(attacks=[f"file:{file}:Attacker[deed=nothing]", "standard"], defenses=["none", "jpeg"])
    outcome = go(chosen, root, tmp_path / "apart", "local", isolate=True)
    assert (outcome.done, outcome.failed) == (4, [])
    assert not [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(file)]
    assert go(chosen, root, tmp_path / "one", "local").done == 4
    pd.testing.assert_frame_equal(table(tmp_path / "apart"), table(tmp_path / "one"))
    records = [Records(tmp_path / folder).read(outcome.cell_ids[0]) for folder in ("apart", "one")]
    assert [record is not None and record["provenance"].get("isolated") for record in records] == [True, None]
    parts = [record[part] for part in ("attack", "curve") for record in records if record]
    assert parts[0] == parts[1]
    assert parts[2] == parts[3]
    # cells that were run otherwise count as missing
    assert go(chosen, root, tmp_path / "one", "local", isolate=True).done == 4
    assert go(chosen, root, tmp_path / "one", "local", isolate=True).kept == 4
    assert not ATTACKS.stand_ins


@pytest.mark.usefixtures("isolated")
def test_the_judge_of_an_isolated_run_believes_no_crafting_process(root: Path, tmp_path: Path) -> None:
    """The plugin replaces the check of the threat model in its own process, and exits, as a crash does."""
    outcome = go(suite("no_judge", "leave", "nothing"), root, tmp_path / "out", "local", isolate=True)
    assert [status for _, status, _ in outcome.failed] == ["failed", "failed"]
    assert outcome.failed[1][2] == "CraftingError: its process died (exit status 7)"
    assert table(tmp_path / "out").linf_max.max() <= 2 / 255


@pytest.mark.usefixtures("isolated")
def test_an_isolated_run_judges_one_model_of_others_at_a_time(root: Path, tmp_path: Path) -> None:
    chosen = suite("nothing", models=["file:a.py:A", "file:b.py:B"])
    with pytest.raises(
        UserError, match=r"^--isolate judges one model of others at a time.* run file:a.py:A and file:b.py:B by"
    ):
        go(chosen, root, tmp_path / "out", "local", isolate=True)
