"""The frames that `evaluate` returns beside its table."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest

from iqarena import evaluate
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.results.columns import IMAGE_COLUMNS, SUMMARY_COLUMNS
from iqarena.bench.results.report import Report
from tests.support.planted import Linear, Rounded, planted_images

ATTACKS = ["random-noise", "pgd[steps=4]", "fgsm", "square[queries=60]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return planted_images(tmp_path_factory.mktemp("report") / "images")


@pytest.fixture(scope="module")
def report(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("out")
    evaluate(Linear("before"), ["fgsm"], folder, limit=None, out=out)  # not part of the report
    return evaluate(Linear(), ATTACKS, folder, eps=["4/255", 8 / 255], settings=("oblivious",), limit=None, out=out)


def test_the_table_is_a_frame_of_the_summary(report: Report) -> None:
    assert isinstance(report, pd.DataFrame)
    assert list(report.columns) == SUMMARY_COLUMNS
    assert len(report) == 8
    assert set(report.model) == {"linear"}
    assert (report.status == "ok").all()


def test_everything_beside_it_is_of_the_same_cells(report: Report) -> None:
    assert list(report.images.columns) == ["cell_id", *IMAGE_COLUMNS]
    assert set(report.images.cell_id) == set(report.cell_id)
    assert len(report.images) == 8 * 24
    assert report.rows[["model", "eps", "rank"]].to_numpy().tolist() == [["linear", 4 / 255, 1], ["linear", 8 / 255, 1]]
    assert report.sizes.eps.tolist() == [0, 4 / 255, 8 / 255]
    assert report.sizes.model.unique().tolist() == ["linear"]
    assert len(report.integrals) == 1
    assert set(report.effort.cell_id) == set(report[report.attack != "random-noise"].cell_id)
    assert len(report.transfers) == 6
    assert report.signs.empty


def test_rows_agree_with_the_table(report: Report) -> None:
    attacks = report[report.attack != "random-noise"]
    for row in report.rows.itertuples():
        own = attacks[attacks.eps == row.eps]
        assert row.robust_srocc == pytest.approx(own.srocc_adv.min())
        assert row.shift == pytest.approx(own.abs_gain.max())
        assert row.shift / row.clean_iqr == pytest.approx(own.abs_gain_iqr.max())


def test_signs_tell_of_a_defense_that_hides_its_gradient(folder: Folder) -> None:
    returned = evaluate(Rounded(Linear("rounded")), ATTACKS, folder, limit=None)
    assert "zero-gradient" in returned.signs.flag.tolist()
    assert returned.rows["flags"][0].split()[0] == "zero-gradient"


def test_what_is_taken_from_it_is_plain_and_it_can_be_copied_kept_and_joined(report: Report) -> None:
    assert type(report[report.attack == "fgsm"]) is pd.DataFrame
    assert type(report.head(2)) is pd.DataFrame
    assert len(pd.concat([report, report])) == 16
    assert len(copy.copy(report)) == len(pickle.loads(pickle.dumps(report))) == 8
    assert np.isfinite(report.groupby("attack").abs_gain.mean()).all()


def test_a_temporary_folder_leaves_the_frames_whole(folder: Folder) -> None:
    returned = evaluate(Linear(), ["fgsm"], folder, limit=8)
    assert len(returned.images) == 8
    assert len(returned.rows) == 1
