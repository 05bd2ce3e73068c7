"""Several processes: the same table as one, and a cell at most is lost when one of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.arena import Arena
from bench.config import Suite, validated
from bench.datasets import open_dataset
from bench.errors import UserError
from bench.estimate import estimate
from bench.executors import execute
from bench.executors.base import Outcome
from bench.executors.processes import tasks
from bench.plan import expand
from bench.records import Records

DEADLY = '''
import os, signal, time
from dataclasses import dataclass
from typing import ClassVar
from attacks.base import Access, Attack

@dataclass(frozen=True)
class Deadly(Attack):
    """Brightens by a level, or does what its parameter says."""
    name: ClassVar[str] = "deadly"
    access: ClassVar[Access] = "score"
    deed: str = "none"

    def run(self, target, images, objective, threat, generator):
        if self.deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "hang":
            time.sleep(3600)
        if self.deed == "greedy" and len(images) > 2:
            os._exit(137)
        if self.deed == "hoard":
            bytearray(2**33)
        return threat.snap(threat.project(images + 1 / 255, images), images)
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four pictures of two references, and the plugin."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    stream = np.random.default_rng(0)
    rows = []
    for number in range(4):
        Image.fromarray(stream.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append((f"{number}.png", f"r{number % 2}", number / 4))
    pd.DataFrame(rows, columns=["image", "reference_id", "mos"]).to_csv(folder / "labels.csv", index=False)
    (tmp_path / "deadly.py").write_text(DEADLY)
    return folder


def suite(root: Path, *deeds: str, **more: object) -> Suite:
    plugin = f"file:{root.parent / 'deadly.py'}:Deadly"
    attacks = [{"attack": f"{plugin}[deed={deed}]", "objectives": ["raise"]} for deed in deeds]
    return validated(
        {"models": ["cnniqa"], "dataset": "folder", "attacks": attacks, "settings": ["adaptive"], "batch": 4, **more}
    )


def go(chosen: Suite, root: Path, out: Path, executor: str = "processes", workers: int = 1) -> Outcome:
    return execute(chosen, root, Records(out), lambda *_: None, executor, workers)


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "summary.csv").drop(columns="seconds")


def test_two_processes_leave_the_table_that_one_leaves(root, tmp_path):
    chosen = suite(root, "none", defenses=["none", "jpeg"], settings=["oblivious", "adaptive"])
    assert go(chosen, root, tmp_path / "two", workers=2).done == 4
    assert go(chosen, root, tmp_path / "one", "local").done == 4
    pd.testing.assert_frame_equal(table(tmp_path / "two"), table(tmp_path / "one"))
    assert go(chosen, root, tmp_path / "two", workers=2).kept == 4


def test_a_process_that_is_killed_costs_one_cell(root, tmp_path):
    outcome = go(suite(root, "none", "kill", "greedy"), root, tmp_path / "out", workers=2)
    assert outcome.done == 3
    assert [(cell.attack.partition("=")[2], status) for cell, status, _ in outcome.failed] == [("kill]", "failed")]
    assert "signal 9" in outcome.failed[0][2]
    found = table(tmp_path / "out")
    # the greedy one dies with four pictures at once and is done with two
    assert found.status.tolist().count("ok") == 2
    assert found[found.status == "failed"].abs_gain.isna().all()
    again = go(suite(root, "none", "kill", "greedy"), root, tmp_path / "out")
    assert (again.kept, again.done) == (2, 1), "a failure is tried again"


def test_a_cell_that_hangs_ends_at_its_time_limit(root, tmp_path):
    # it would hang for an hour; the other cell takes a tenth of a second, but may have to wait for a busy machine
    outcome = go(suite(root, "hang", "none", seconds=6), root, tmp_path / "out", "local")
    assert [words for _, _, words in outcome.failed] == ["it took longer than the time limit of 6 s"]
    assert outcome.done == 2


def test_a_cell_that_takes_more_memory_than_it_may_fails_alone(root, tmp_path):
    outcome = go(suite(root, "hoard", "none", memory_mib=4096), root, tmp_path / "out", "local")
    assert [(status, words.partition(":")[0]) for _, status, words in outcome.failed] == [("failed", "MemoryError")]
    assert outcome.done == 2


def test_cells_that_share_attacked_pictures_are_one_task():
    chosen = validated(
        {"models": ["cnniqa"], "defenses": ["none", "jpeg"], "threats": [{"eps": "2/255"}, {"eps": "4/255"}],
         "attacks": ["fgsm", "pgd", {"attack": "apgd", "objectives": ["away", "raise"]}, "standard"]}
    )  # fmt: skip
    work = [(cell, str(place)) for place, cell in enumerate(expand(chosen))]
    found = tasks(work)
    assert sorted(cell_id for task in found for _, cell_id in task.work) == sorted(cell_id for _, cell_id in work)
    home = {cell.crafting: place for place, task in enumerate(found) for cell, _ in task.work}
    for place, task in enumerate(found):
        assert all(home[cell.crafting] == place for cell, _ in task.work)
    sets = [{cell.attack for cell, _ in task.work} for task in found]
    # per size and per knowledge of jpeg, or of none
    assert sets.count({"fgsm"}) == sets.count({"pgd"}) == sets.count({"apgd", "standard"}) == 4
    assert len(sets) == 12


def test_two_runs_do_not_write_to_one_folder(root, tmp_path):
    records = Records(tmp_path / "out")
    with records.writing(), pytest.raises(UserError, match="another run writes to it"):
        go(suite(root, "none"), root, tmp_path / "out", "local")
    assert go(suite(root, "none"), root, tmp_path / "out", "local").done == 1


def test_ctrl_c_ends_a_run_of_processes_soon_and_says_how_to_go_on(root, tmp_path):
    plugin = f"file:{root.parent / 'deadly.py'}:Deadly"
    command = [
        *(sys.executable, "-m", "bench", "run", "--executor", "processes", "--workers", "1", "--out", str(tmp_path / "out")),
        *("--dataset", "folder", "--root", str(root), "-m", "cnniqa", "-d", "none", "-a", f"{plugin}[deed=hang]"),
    ]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert "cells to run" in running.stdout.readline()
        time.sleep(3)
        running.send_signal(2)
        started = time.monotonic()
        _, said = running.communicate(timeout=30)
        assert time.monotonic() - started < 5
    assert running.returncode == 130
    assert "goes on from here" in said


def test_a_dry_run_counts_what_a_run_would_ask(root, tmp_path):
    chosen = validated(
        {"models": ["cnniqa"], "dataset": "folder", "defenses": ["none", "jpeg"],
         "attacks": [{"attack": "pgd[steps=3]", "objectives": ["raise"]}, "parsimonious"],
         "threats": [{"norm": "l2", "eps": 1}]}
    )  # fmt: skip
    records = Records(tmp_path / "out")
    arena = Arena(open_dataset("folder", root), None, 4)
    found = estimate(arena, expand(chosen), records)
    # pgd: 2 defenses × 2 settings, of which both oblivious ones share their pictures with the undefended adaptive one;
    # each of the two sets takes 3 steps, a last look and the clean score; every cell scores four pictures
    assert (found.to_do, found.craftings, found.skipped, found.done) == (4, 2, 4, 0)
    assert (found.forwards, found.backwards) == (2 * 4 * 5 + 4 * 4, 2 * 4 * 3)
    assert found.seconds > 0
    assert not (tmp_path / "out" / "summary.csv").exists()
    execute(chosen, root, records, lambda *_: None)
    assert pd.read_csv(tmp_path / "out" / "summary.csv").backwards_mean.tolist() == [3] * 4
    left = estimate(arena, expand(chosen), records)
    assert (left.to_do, left.done, left.forwards, left.seconds) == (0, 4, 0, 0)
