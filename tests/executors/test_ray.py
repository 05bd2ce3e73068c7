"""The executor `ray` on a local cluster of two nodes: the same table, and lost cells are run again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from iqarena.bench.errors import UserError
from iqarena.bench.executors import execute
from iqarena.bench.executors.schedule import Outcome
from iqarena.bench.results.store import Records
from tests.support.small_runs import attacker, four_images, go, suite, table

ray = pytest.importorskip("ray", reason="the executor ray needs the extra ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node that runs no cells, and two nodes with one core each."""
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray_cluster.machines = [ray_cluster.add_node(num_cpus=1) for _ in range(2)]
    yield ray_cluster
    ray_cluster.shutdown()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return four_images(tmp_path / "images")


def test_all_executors_leave_one_table_and_take_over_from_each_other(cluster, root, tmp_path):
    chosen = suite(
        "nothing", "pgd[steps=2]", "random-noise[]", defenses=["none", "jpeg"], settings=["oblivious", "adaptive"]
    )
    outcome = execute(chosen, root, Records(tmp_path / "ray"), lambda *_: None, "ray", 2, address=cluster.address)
    assert (outcome.done, outcome.failed) == (12, [])
    for executor in ("local", "processes"):
        assert go(chosen, root, tmp_path / executor, executor, 1).done == 12
        pd.testing.assert_frame_equal(table(tmp_path / executor), table(tmp_path / "ray"), check_exact=True)
    assert go(chosen, root, tmp_path / "ray", "local").kept == 12


def test_a_cell_that_dies_hangs_or_wants_too_much_is_lost_alone(cluster, root, tmp_path, monkeypatch):
    """The limit is an hour; when the cell that hangs has begun, the clock of this process jumps by an hour."""
    jumped = 0.0
    monkeypatch.setattr("iqarena.bench.executors.ray.time", SimpleNamespace(monotonic=lambda: time.monotonic() + jumped))

    def report(event: str, cell: Any, *_: object) -> None:
        nonlocal jumped
        if event == "start" and "hang" in cell.attack:
            jumped += 3600

    chosen = suite("greedy", "hungry", "hang", "nothing", seconds=3600)
    outcome: Outcome = execute(chosen, root, Records(tmp_path / "out"), report, "ray", 1, address=cluster.address)
    assert outcome.done == 4
    # the process of `greedy` dies with four images at once, `hungry` raises; both finish with two
    assert [(cell.attack, message) for cell, _, message in outcome.failed] == [
        (attacker("hang"), "it took longer than the time limit of 3600 s")
    ]


def test_what_a_lost_machine_had_not_finished_is_run_on_another(cluster, root, tmp_path):
    flag = tmp_path / "began"

    def report(event: str, *_: object) -> None:
        if event == "start" and len(cluster.machines) == 2:
            while not (flag.exists() and flag.read_text()):
                time.sleep(0.05)
            (lost,) = (machine for machine in cluster.machines if machine.node_id == flag.read_text())
            cluster.machines.remove(lost)
            cluster.remove_node(lost, allow_graceful=False)

    chosen = suite(attacker("once", flag=str(flag)))
    outcome = execute(chosen, root, Records(tmp_path / "out"), report, "ray", 1, address=cluster.address)
    assert (outcome.done, outcome.failed, len(cluster.machines)) == (1, [], 1)


def test_a_cluster_that_is_not_there_is_one_line(root, tmp_path, monkeypatch):
    def fail(**_: object) -> None:
        raise ConnectionError("Failed to connect\nto GCS")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match=r"^no Ray cluster at 10\.0\.0\.1:6379: Failed to connect to GCS$"):
        execute(suite("nothing"), root, Records(tmp_path / "out"), lambda *_: None, "ray", 1, address="10.0.0.1:6379")
