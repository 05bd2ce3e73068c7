"""Several processes: the same table as one process, and at most a cell is lost when one of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from typer.testing import CliRunner

from iqarena.bench.cells import expand
from iqarena.bench.cli.app import app
from iqarena.bench.datasets import open_dataset
from iqarena.bench.errors import UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import execute
from iqarena.bench.executors.dry_run import estimate
from iqarena.bench.executors.ray import _connect, capacity
from iqarena.bench.executors.schedule import WorkerSettings, tasks
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from iqarena.models.base import QualityModel
from tests.support.analytic_models import StochasticModel, WrongShapeModel
from tests.support.small_runs import attacker, four_images, go, suite, table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return four_images(tmp_path / "images")


def test_two_processes_leave_the_table_that_one_leaves(root, tmp_path):
    chosen = suite("nothing", defenses=["none", "jpeg"], settings=["oblivious", "adaptive"])
    assert go(chosen, root, tmp_path / "two", workers=2).done == 4
    assert go(chosen, root, tmp_path / "one", "local").done == 4
    pd.testing.assert_frame_equal(table(tmp_path / "two"), table(tmp_path / "one"))
    assert go(chosen, root, tmp_path / "two", workers=2).kept == 4


def test_a_process_that_is_killed_costs_one_cell(root, tmp_path):
    outcome = go(suite("nothing", "kill", "greedy"), root, tmp_path / "out", workers=2)
    assert outcome.done == 3
    assert [(cell.attack.partition("=")[2], status) for cell, status, _ in outcome.failed] == [("kill]", "failed")]
    assert "signal 9" in outcome.failed[0][2]
    rows = table(tmp_path / "out")
    # the plugin `greedy` dies with four images at once and finishes with two
    assert rows.status.tolist().count("ok") == 2
    assert rows[rows.status == "failed"].abs_gain.isna().all()
    again = go(suite("nothing", "kill", "greedy"), root, tmp_path / "out")
    assert (again.kept, again.done) == (2, 1), "a failure is tried again"


def test_a_cell_that_hangs_ends_at_its_time_limit(root, tmp_path, monkeypatch):
    """The limit is an hour. When the cell that hangs has begun, the clock of this process jumps by an hour."""
    jumped = 0.0
    monkeypatch.setattr(
        "iqarena.bench.executors.processes.time", SimpleNamespace(monotonic=lambda: time.monotonic() + jumped)
    )

    def report(event, cell, *_):
        nonlocal jumped
        if event == "start" and "hang" in cell.attack:
            jumped = 3600.0

    chosen = suite("hang", "nothing", seconds=3600)
    outcome = execute(chosen, root, Records(tmp_path / "out"), report, "local")
    assert [message for _, _, message in outcome.failed] == ["it took longer than the time limit of 3600 s"]
    assert outcome.done == 2


def test_a_cell_that_takes_more_memory_than_it_may_fails_alone(root, tmp_path):
    outcome = go(suite("hoard", "nothing", memory_mib=4096), root, tmp_path / "out", "local")
    ((_, status, message),) = outcome.failed
    assert (status, message.partition(":")[0]) == ("failed", "out of memory")
    assert outcome.done == 2


def test_cells_that_share_attacked_images_are_one_task():
    chosen = validated(
        {"models": ["cnniqa"], "defenses": ["none", "jpeg"], "threats": [{"eps": "2/255"}, {"eps": "4/255"}],
         "attacks": ["fgsm", "pgd", {"attack": "apgd", "objectives": ["away", "raise"]}, "standard"]}
    )  # fmt: skip
    work = [(cell, str(index)) for index, cell in enumerate(expand(chosen))]
    groups = tasks(work)
    assert sorted(cell_id for task in groups for _, cell_id in task.work) == sorted(cell_id for _, cell_id in work)
    home = {cell.crafting: index for index, task in enumerate(groups) for cell, _ in task.work}
    for index, task in enumerate(groups):
        assert all(home[cell.crafting] == index for cell, _ in task.work)
    sets = [{cell.attack for cell, _ in task.work} for task in groups]
    # per size and per knowledge of jpeg, or of none
    assert sets.count({"fgsm"}) == sets.count({"pgd"}) == sets.count({"apgd", "standard"}) == 4
    assert len(sets) == 12


def test_two_runs_do_not_write_to_one_folder(root, tmp_path):
    records = Records(tmp_path / "out")
    with records.writing(), pytest.raises(UserError, match="another run writes to it"):
        go(suite("nothing"), root, tmp_path / "out", "local")
    assert go(suite("nothing"), root, tmp_path / "out", "local").done == 1


def test_ctrl_c_ends_a_run_of_processes_soon_and_says_how_to_go_on(root, tmp_path):
    command = [
        *(
            sys.executable,
            "-m",
            "iqarena",
            "run",
            "--executor",
            "processes",
            "--workers",
            "1",
            "--out",
            str(tmp_path / "out"),
        ),
        *("--dataset", "folder", "--root", str(root), "-m", "cnniqa", "-d", "none", "-a", attacker("hang")),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert "cells to run" in running.stdout.readline()
        time.sleep(3)
        running.send_signal(2)
        _, output = running.communicate()
    assert running.returncode == 130
    assert "goes on from here" in output


def test_a_dry_run_counts_what_a_run_would_ask(root, tmp_path):
    chosen = validated(
        {"models": ["cnniqa"], "dataset": "folder", "defenses": ["none", "jpeg"],
         "attacks": [{"attack": "pgd[steps=3]", "objectives": ["raise"]}, "parsimonious"],
         "threats": [{"norm": "l2", "eps": 1}]}
    )  # fmt: skip
    records = Records(tmp_path / "out")
    evaluator = Evaluator(open_dataset("folder", root), None, 4)
    result = estimate(evaluator, expand(chosen), records)
    # pgd: 2 defenses × 2 settings, of which both oblivious ones share their images with the undefended adaptive one;
    # each of the two sets takes 3 steps, a last look and the clean score; every cell scores four images
    assert (result.to_do, result.craftings, result.skipped, result.done) == (4, 2, 4, 0)
    assert (result.forwards, result.backwards) == (2 * 4 * 5 + 4 * 4, 2 * 4 * 3)
    assert result.seconds > 0
    assert not (tmp_path / "out" / "summary.csv").exists()
    execute(chosen, root, records, lambda *_: None)
    assert pd.read_csv(tmp_path / "out" / "summary.csv").backwards_mean.tolist() == [3] * 4
    left = estimate(evaluator, expand(chosen), records)
    assert (left.to_do, left.done, left.forwards, left.seconds) == (0, 4, 0, 0)


def test_a_dry_run_knows_what_a_run_would_do_anew(root, tmp_path):
    args = ["run", "--dataset", "folder", "--root", str(root), "-m", "cnniqa", "-d", "none", "-a", "fgsm"]
    args += ["--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, args).exit_code == 0
    for options, to_do in (([], 0), (["--fresh"], 2), (["--keep-images"], 2)):
        output = CliRunner().invoke(app, [*args, "--dry-run", *options]).stdout
        assert output.startswith(f"{to_do} cells to run, {2 - to_do} done before, 0 skipped; 4 images each")


def lone(root: Path, model: QualityModel, **more: object) -> tuple[Evaluator, list]:
    chosen = validated({"models": [model.info.name], "attacks": ["pgd[steps=2]"], "settings": ["adaptive"], **more})
    return Evaluator(open_dataset("folder", root), None, 4, {model.info.name: model}), expand(chosen)


def test_a_dry_run_counts_every_draw_of_a_stochastic_model(root, tmp_path):
    evaluator, (cell,) = lone(root, StochasticModel(), draws=3)
    result = estimate(evaluator, [cell], Records(tmp_path / "out"))
    # as the target counts: q₀, two steps and the last look, three draws each; what is deployed is scored once
    assert (result.forwards, result.backwards) == (4 * 3 * 4 + 4, 4 * 3 * 2)
    _, rows = evaluator.run(cell, evaluator.ids.cell_id(cell))
    assert (rows.forwards.sum(), rows.backwards.sum()) == (4 * 3 * 4, 4 * 3 * 2)


def test_a_dry_run_of_a_model_that_raises_is_one_line(root, tmp_path):
    evaluator, cells = lone(root, WrongShapeModel())
    with pytest.raises(UserError, match=r"^wrong-shape cannot be timed \(ModelError: wrong-shape: returned"):
        estimate(evaluator, cells, Records(tmp_path / "out"))


@pytest.mark.parametrize(("address", "message"), [("10.0.0.1:6379", "at 10.0.0.1:6379"), (None, "could be started here")])
def test_a_cluster_that_does_not_answer_or_start_is_one_line(address, message):
    def fail(**_: object) -> None:
        raise RuntimeError("no room\nin /dev/shm")

    with pytest.raises(UserError) as error:
        _connect(SimpleNamespace(init=fail), address, 2)
    assert str(error.value) == f"no Ray cluster {message}: no room in /dev/shm"


def test_a_cluster_has_room_for_tasks_or_says_what_it_lacks():
    machines = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 2.0**35}},
        {"Alive": True, "Resources": {"CPU": 3.0, "memory": 2.0**35}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    ray = SimpleNamespace(nodes=lambda: machines)
    settings = WorkerSettings("demo", None, None, 16, threads=1)
    assert capacity(ray, settings) == 11
    assert capacity(ray, replace(settings, threads=2)) == 4 + 1
    assert capacity(ray, replace(settings, gpus=0.5)) == 4
    assert capacity(ray, replace(settings, memory=2**34, threads=2)) == 2 + 1
    with pytest.raises(UserError, match=r"^no machine of the Ray cluster has what a task takes: 1 CPU, 4 GPU; see"):
        capacity(ray, replace(settings, gpus=4))
