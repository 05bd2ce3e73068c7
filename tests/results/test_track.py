"""Rows that are compared were scored on the same thing: data sets of one name are told apart, unlabelled images left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.render import check, render
from iqarena.bench.results.comparison import compare, frame
from iqarena.bench.results.curves import integrals, size_curves
from iqarena.bench.results.ranking import flags_by_family, tracks
from iqarena.bench.results.report import Report
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import Track, cells_of, data_set_labels, tracks_of
from tests.support.board_records import BAD, CLEAN, GOOD, IMAGES, MOS, WEAK, put

OTHER = "0123456789abcdef" * 4


def test_mended_labels_make_another_track_with_a_label_in_its_title(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    put(records, GOOD, model="b", fingerprint=OTHER, mos=MOS[::-1])
    by_track = tracks(records)
    assert [[row.model for row in rows] for rows in by_track.values()] == [["b"], ["m"]]
    assert list(data_set_labels(by_track).values()) == ["01234567", "ffffffff"]
    render(records, tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert text.count("\n## demo (01234567), linf, ε = 2/255") == text.count("\n## demo (ffffffff), linf, ε = 2/255") == 1
    assert "Several data sets here are called demo" in text
    assert check(records, tmp_path) == []


def test_one_data_set_has_no_label_and_another_name_gives_it_none() -> None:
    alone = [Track("a", "MOS", "linf", 0.1, "f"), Track("b", "MOS", "linf", 0.1, "e"), Track("a", "MOS", "linf", 0.2, "f")]
    assert set(data_set_labels(alone).values()) == {""}


def test_labels_differ_where_fingerprints_begin_alike() -> None:
    several = [Track("a", "MOS", "linf", 0.1, name) for name in ("mydata-v1", "mydata-v2", "ab" * 32, "ab" * 31 + "cd")]
    labels = list(data_set_labels(several).values())
    assert len({*labels}) == 4
    assert all(len(label) == 8 for label in labels)


def test_other_pixels_under_one_fingerprint_are_another_track(records: Records) -> None:
    put(records, GOOD, content="a" * 64)
    put(records, GOOD, model="b", content="b" * 64)
    put(records, GOOD, model="c", content="b" * 64)
    assert [[row.model for row in rows] for rows in tracks(records).values()] == [["m"], ["b", "c"]]
    labels = data_set_labels(tracks(records))
    assert sorted(labels.values()) == ["ffffffff+aaaaaaaa", "ffffffff+bbbbbbbb"]


def test_records_from_before_contents_were_written_and_other_limits_stay_in_the_track(records: Records) -> None:
    put(records, GOOD)
    put(records, GOOD, model="b", content="b" * 64)
    put(records, GOOD[:6], model="c", content="c" * 64)
    assert len(set(tracks_of(list(records.all())))) == 1


def test_one_model_on_two_data_sets_of_one_name_has_both_its_rows(records: Records) -> None:
    put(records, GOOD)
    put(records, WEAK[:8], fingerprint=OTHER)
    assert [(rows[0].model, rows[0].images) for rows in tracks(records).values()] == [("m", 8), ("m", IMAGES)]
    report = Report.of(records, records.cell_ids())
    assert list(report.rows.fingerprint) == [OTHER, "f" * 64]
    assert len(report.transfers) == 2


def test_cells_on_fewer_images_are_counted_on_the_board(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    put(records, GOOD, model="b")
    put(records, GOOD[:8])
    render(records, tmp_path)
    assert (
        "1 cell on other images of this data set (another limit) do not count." in (tmp_path / "leaderboard.md").read_text()
    )


def test_comparisons_curves_and_flags_keep_data_sets_apart(records: Records) -> None:
    for eps in (2 / 255, 4 / 255):
        put(records, GOOD, eps=eps, flags=["left-ball"])
        put(records, BAD, eps=eps, defense="half")
        put(records, BAD, eps=eps, fingerprint=OTHER)
        put(records, GOOD, eps=eps, defense="half", fingerprint=OTHER)
    comparisons = compare(records, "none", "half")
    assert [(c.track.fingerprint[:1], c.track.eps) for c in comparisons] == [
        ("0", 2 / 255), ("f", 2 / 255), ("0", 4 / 255), ("f", 4 / 255),
    ]  # fmt: skip
    assert "demo (01234567), linf" in comparisons[0].title
    assert [bool(c.flags[0]) for c in comparisons] == [False, True, False, True]
    assert set(frame(comparisons).fingerprint) == {OTHER, "f" * 64}
    assert len(integrals(size_curves(records))) == 4
    assert len(flags_by_family(cells_of(records))) == 4
    put(records, GOOD, model="z", fingerprint=OTHER)
    put(records, GOOD, model="z", defense="half")
    with pytest.raises(UserError, match="nothing was run with both"):
        compare(records, "none", "half", model="z")


def test_images_without_a_label_are_left_out_of_what_needs_one_and_counted(records: Records, tmp_path: Path) -> None:
    labels = MOS.copy()
    labels[[3, 10]] = np.nan
    known = np.isfinite(labels)
    for defense, adv in (("none", WEAK), ("half", GOOD)):
        put(records, adv, defense=defense, mos=labels)
    best, row = next(iter(tracks(records).values()))
    assert (row.unlabelled, best.unlabelled, row.complete) == (2, 2, True)
    assert row.robust[0] == pytest.approx(spearmanr(MOS[known], WEAK[known]).statistic)
    assert row.clean[0] == pytest.approx(spearmanr(MOS[known], CLEAN[known]).statistic)
    assert row.shift[0] == pytest.approx(np.abs(WEAK - CLEAN).mean())  # of all images
    assert row.robust[1] < row.robust[0] < row.robust[2]
    (comparison,) = compare(records, "none", "half")
    assert comparison.title.endswith("24 images of 12 references, 2 without a label")
    assert comparison.rows["srocc"][-1].values[0][0] == pytest.approx(row.robust[0])
    render(records, tmp_path)
    assert "24 images of 12 references, 2 of them without a label and" in (tmp_path / "leaderboard.md").read_text()
    assert list(Report.of(records, records.cell_ids()).rows.unlabelled) == [2, 2]


def test_a_row_says_when_too_few_labels_are_there(records: Records) -> None:
    labels = np.full(IMAGES, np.nan)
    labels[0] = 0.5
    put(records, GOOD, mos=labels)
    ((row,),) = tracks(records).values()
    assert row.missing == ("labels: 23 of 24 images have none, and SROCC needs two",)


def test_flags_is_the_column(records: Records) -> None:
    put(records, GOOD, flags=["left-ball"])
    report = Report.of(records, records.cell_ids())
    assert list(report.flags) == list(report["flags"]) == ["left-ball"]
    assert list(report.rows.flags) == ["left-ball"]
    assert report[["cell_id"]].flags.allows_duplicate_labels
    assert report.copy().flags.allows_duplicate_labels


def test_a_file_name_with_a_carriage_return_is_read_as_it_was_written(records: Records) -> None:
    from iqarena.bench.results.columns import csv_line

    assert csv_line(["a\rb", "c", 1.5, None]) == '"a\rb",c,1.5,\n'
    put(records, GOOD, model="a\rb")
    assert list(Records(records.folder).summary().model) == ["a\rb"]
