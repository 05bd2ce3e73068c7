"""Ranks, intervals and pages made from records; expected values are by hand or by scipy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

from bench import plots
from bench.bootstrap import resample_weights
from bench.errors import UserError
from bench.leaderboard import check, render, size
from bench.ranking import Row, tracks
from bench.records import IMAGE_COLUMNS, Records

PICTURES, PER_REFERENCE = 24, 2
MOS = np.linspace(0.1, 0.9, PICTURES)
NOISE = np.random.default_rng(0).normal(size=(6, PICTURES))
GOOD, WEAK, BAD = MOS + 0.1 * NOISE[0], MOS + 0.6 * NOISE[1], -MOS + 0.3 * NOISE[2]
CLEAN = MOS + 0.05 * NOISE[3]


def put(records: Records, adv: Any, *, clean: Any = CLEAN, references: int | None = None, **changes: Any) -> None:
    """Write one cell; `changes` go to the cell, or to the record where they belong there."""
    cell = {"dataset": "demo", "model": "m", "defense": "none", "attack": "pgd", "objective": "away", "norm": "linf",
            "eps": 2 / 255, "queries": None, "setting": "oblivious", "seed": 0, "draws": 8}  # fmt: skip
    cell |= {name: changes[name] for name in cell if name in changes}
    count = len(adv)
    names = [f"r{i // PER_REFERENCE if references is None else i % references:02d}" for i in range(count)]
    images = pd.DataFrame(
        {"image_id": [f"p{i:02d}" for i in range(count)], "reference_id": names, "mos": MOS[:count],
         "clean_quality": clean[:count], "adv_quality": adv, "status": changes.get("status", "ok")}
    )  # fmt: skip
    images = images.iloc[::-1] if changes.get("backwards") else images
    record = {
        "cell_id": "-".join(re.sub(r"\W+", "_", str(value)) for value in [*cell.values(), count]),
        "cell": cell,
        "status": changes.get("status", "ok"),
        "errors": changes.get("errors", []),
        "n_images": count,
        "measures": {},
        "costs": {},
        "flags": changes.get("flags", []),
        "attack": {"control": cell["attack"] == "random-noise", "paper": ""},
        "defense": {"kind": "none", "stochastic": False, "paper": ""},
        "model": {"paper": "https://example.org/m", "weights_sha256": changes.get("weights", "w")},
        "dataset": {"label_kind": changes.get("label_kind", "pseudo-MOS")},
        "score_seconds_an_image": {"defended": changes.get("seconds", 1.0), "undefended": 0.5},
    }
    records.write(record, images.reindex(columns=IMAGE_COLUMNS))


@pytest.fixture
def records(tmp_path: Path) -> Records:
    made = Records(tmp_path / "results")
    made.prepare()
    return made


def only(records: Records) -> dict[tuple[str, str], Row]:
    """The rows of the one track there is."""
    (rows,) = tracks(records).values()
    return {(row.model, row.defense): row for row in rows}


def test_robust_is_the_least_over_attacks_and_settings_but_not_controls(records: Records) -> None:
    put(records, GOOD, attack="fgsm", seconds=1.0)
    put(records, WEAK, attack="pgd", setting="adaptive", seconds=2.0, flags=["zero-gradient"])
    put(records, GOOD, attack="pgd", objective="raise", seconds=1.5)
    put(records, BAD, attack="random-noise", flags=["ignored"])
    row = only(records)["m", "none"]
    assert row.robust[0] == pytest.approx(spearmanr(MOS, WEAK).statistic)
    assert row.clean[0] == pytest.approx(spearmanr(MOS, CLEAN).statistic)
    assert row.worst_attack == "pgd, away, adaptive"
    assert row.shift[0] == pytest.approx(np.abs(WEAK - CLEAN).mean())
    assert row.shift_attack == "pgd, away, adaptive"
    assert row.noise[0] == pytest.approx(np.abs(BAD - CLEAN).mean())
    assert row.cost_ratio == pytest.approx(2.5)  # the median of 2, 4, 3, 2
    assert row.flags == ("zero-gradient",)
    assert (row.images, row.references) == (PICTURES, PICTURES // PER_REFERENCE)


def test_interval_is_of_the_least_and_pairs_cells_by_picture(records: Records) -> None:
    attacked = [MOS + 0.4 * NOISE[4], MOS + 0.4 * NOISE[5]]
    put(records, attacked[0], attack="a")
    put(records, attacked[1], attack="b", backwards=True)  # rows in another order
    row = only(records)["m", "none"]
    weights = resample_weights([f"r{i // PER_REFERENCE:02d}" for i in range(PICTURES)])[1:].astype(int)
    replicates = []
    for counts in weights:
        mos, *scores = (rankdata(np.repeat(values, counts)) for values in (MOS, *attacked))
        replicates.append([np.corrcoef(mos, ranks)[0, 1] for ranks in scores])
    expected = np.percentile(np.min(replicates, axis=1), [2.5, 97.5])
    assert row.robust[1:] == pytest.approx(expected)
    worst = int(np.argmin([spearmanr(MOS, values).statistic for values in attacked]))
    alone = np.percentile(np.array(replicates)[:, worst], [2.5, 97.5])
    assert row.robust[1] <= alone[0]
    assert row.robust[2] < alone[1]  # the interval of the worst cell alone would be too kind


def test_ranks_count_rows_that_are_better_beyond_their_intervals(records: Records) -> None:
    for model, adv in {"top": MOS, "near": GOOD, "nearer": MOS + 0.1 * NOISE[4], "last": BAD}.items():
        put(records, adv, model=model)
    rows = only(records)
    assert rows["top", "none"].robust == (1, 1, 1)
    close = sorted((rows["near", "none"], rows["nearer", "none"]), key=lambda row: row.robust[0])
    assert close[0].robust[2] > close[1].robust[1]
    assert {name: row.rank for (name, _), row in rows.items()} == {"top": 1, "near": 2, "nearer": 2, "last": 4}
    values = [row.robust[0] for row in rows.values()]
    assert values == sorted(values, reverse=True)


def test_equal_rows_share_a_rank_in_order_of_name(records: Records) -> None:
    for model in ("b", "a"):
        put(records, GOOD, model=model)
    assert [(name, row.rank) for (name, _), row in only(records).items()] == [("a", 1), ("b", 1)]


def test_rows_with_missing_or_failed_cells_are_listed_last_and_unranked(records: Records) -> None:
    put(records, BAD, defense="whole", attack="pgd")
    put(records, BAD, defense="whole", attack="fgsm")
    put(records, MOS, defense="lacking", attack="pgd")
    put(records, MOS, defense="failing", attack="pgd")
    put(records, np.full(PICTURES, np.nan), defense="failing", attack="fgsm", status="failed", errors=["ValueError: no"])
    rows = only(records)
    assert [defense for _, defense in rows] == ["whole", "failing", "lacking"]
    assert rows["m", "whole"].rank == 1
    assert rows["m", "lacking"].rank is rows["m", "failing"].rank is None
    assert rows["m", "lacking"].missing == ("fgsm, away, oblivious",)
    assert rows["m", "failing"].missing == ("fgsm, away, oblivious (failed: ValueError: no)",)
    assert rows["m", "lacking"].robust[0] == 1


def test_a_row_without_any_ok_cell_is_there_without_values(records: Records) -> None:
    put(records, GOOD, model="a")
    put(records, np.full(PICTURES, np.nan), model="b", status="failed")
    row = only(records)["b", "none"]
    assert not row.complete
    assert np.isnan(row.robust).all()
    assert row.cells == ()
    assert render(records, records.folder.parent)


def test_equal_scores_count_as_zero_and_do_not_hide(records: Records) -> None:
    put(records, GOOD, attack="fgsm")
    put(records, np.full(PICTURES, 0.5), attack="pgd")
    row = only(records)["m", "none"]
    assert row.robust[0] == 0
    assert row.worst_attack.startswith("pgd")


def test_one_reference_gives_no_interval_and_separates_nobody(records: Records) -> None:
    put(records, MOS, model="a", references=1)
    put(records, BAD, model="b", references=1)
    rows = only(records)
    assert np.isnan(rows["a", "none"].robust[1:]).all()
    assert [row.rank for row in rows.values()] == [1, 1]


def test_cells_on_other_pictures_count_as_missing(records: Records) -> None:
    for model in ("a", "b"):
        put(records, GOOD, model=model)
    put(records, MOS[:8], model="c")
    row = only(records)["c", "none"]
    assert row.missing == ("pgd, away, oblivious (run on other pictures)",)
    assert row.rank is None


@pytest.mark.parametrize("change", [{"weights": "other"}, {"clean": CLEAN + 0.01}])
def test_cells_of_two_different_models_under_one_name_do_not_rank(records: Records, change: dict[str, Any]) -> None:
    put(records, GOOD, attack="fgsm")
    put(records, GOOD, attack="pgd", **change)
    assert only(records)["m", "none"].missing == ("cells of one model: their clean qualities or weights differ",)


def test_a_seed_that_others_have_is_missing(records: Records) -> None:
    for model, seeds in {"a": (0, 1), "b": (0,)}.items():
        for seed in seeds:
            put(records, GOOD, model=model, seed=seed)
    rows = only(records)
    assert rows["a", "none"].complete
    assert rows["b", "none"].missing == ("pgd, away, oblivious, seed=1",)


def test_tracks_are_kept_apart_and_their_files_too(records: Records) -> None:
    put(records, GOOD, eps=2 / 255)
    put(records, GOOD, eps=0.005)
    put(records, GOOD, label_kind="MOS", seed=7)
    put(records, GOOD, norm="l2", eps=1.0)
    assert list(tracks(records)) == [
        ("demo", "MOS", "linf", 2 / 255), ("demo", "pseudo-MOS", "l2", 1.0),
        ("demo", "pseudo-MOS", "linf", 0.005), ("demo", "pseudo-MOS", "linf", 2 / 255),
    ]  # fmt: skip
    slugs = re.findall(r"quality-shift-(\S+)\.png", " ".join(check(records, records.folder)))
    assert slugs == ["demo-linf-2-255", "demo-l2-1", "demo-linf-0-005", "demo-pseudo-mos-linf-2-255"]


@pytest.mark.parametrize(
    ("norm", "eps", "text"),
    [("linf", 2 / 255, "2/255"), ("linf", 0.00784314, "2/255"), ("linf", 0.1, "0.1"), ("l2", 0.2, "0.2")],
)
def test_sizes_are_written_as_people_do(norm: str, eps: float, text: str) -> None:
    assert size(norm, eps) == text


def filled(records: Records) -> Records:
    for setting in ("oblivious", "adaptive"):
        put(records, GOOD, setting=setting)
        put(records, WEAK, setting=setting, defense="jpeg[quality=75|x]")
        put(records, CLEAN, setting=setting, attack="random-noise")
    put(records, MOS, defense="half")
    return records


def test_render_is_a_pure_function_of_the_records(records: Records, tmp_path: Path) -> None:
    filled(records)
    first = {path: path.read_bytes() for path in render(records, tmp_path)}
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        second = {path: path.read_bytes() for path in render(records, tmp_path)}
    assert first == second
    assert len(first) == 2 + 8
    assert check(records, tmp_path) == []


def test_page_says_what_it_must(records: Records, tmp_path: Path) -> None:
    render(filled(records), tmp_path / "out")
    text = (tmp_path / "out/leaderboard.md").read_text()
    shown = f"**{spearmanr(MOS, WEAK).statistic:.2f}**"
    assert re.search(rf"^\| \d \| m \| jpeg\[quality=75\\\|x\] \(none\) \| .*{re.escape(shown)}", text, re.M)
    assert "reconstruction from the abstracts of [arXiv 2404.19567]" in text
    assert "labels are pseudo-MOS, not people's opinions" in text
    assert "24 pictures made from 12 reference pictures; labels: pseudo-MOS." in text
    assert "Only 12 reference pictures" in text
    assert "`iqarena leaderboard --results ../results`" in text
    assert re.search(r"^- m, half: .* Missing: pgd, away, adaptive\.$", text, re.M)
    links = re.findall(r"\(([^()]*\.(?:png|svg))\)", text)
    assert len(links) == 8
    assert all((tmp_path / "out" / link).is_file() for link in links)
    rows = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {11}


def test_data_holds_what_is_drawn(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "draw", lambda *_: [])  # slow, and not looked at here
    render(filled(records), tmp_path)
    (data,) = json.loads((records.folder / "plots/data.json").read_text())
    assert data["columns"] == [["pgd", "away"], ["random-noise", "away"]]
    assert data["controls"] == 1
    assert [panel["setting"] for panel in data["panels"]] == ["oblivious", "adaptive"]
    half = [line["defense"] for line in data["lines"]].index("half")
    assert data["lines"][half]["rank"] is None
    assert data["panels"][0]["srocc"][half] == [1, None]
    assert data["panels"][1]["shift"][half] == [None, None]
    top = [line["defense"] for line in data["lines"]].index("none")
    assert data["panels"][0]["shift"][top] == pytest.approx([np.abs(GOOD - CLEAN).mean(), 0], abs=1e-6)


def test_check_names_each_file_that_differs(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    assert len(check(records, tmp_path)) == 2 + 8
    render(records, tmp_path)
    (tmp_path / "leaderboard.md").write_text("mine is better\n")
    gone = records.folder / "plots/quality-shift-demo-linf-2-255.svg"
    gone.unlink()
    assert check(records, tmp_path) == [
        f"{tmp_path / 'leaderboard.md'}: differs from what the records give", f"{gone}: missing",
    ]  # fmt: skip
    assert (tmp_path / "leaderboard.md").read_text() == "mine is better\n"


def test_nothing_to_render_is_one_clear_line(records: Records, tmp_path: Path) -> None:
    for act in (render, check):
        with pytest.raises(UserError, match=r"results: no records; make some with iqarena run --out"):
            act(records, tmp_path)


def test_an_out_that_cannot_be_written_is_one_clear_line(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        render(records, tmp_path / "file")


@pytest.mark.parametrize(("lines", "columns"), [(1, 1), (18, 24)])
def test_no_label_is_cut_off(lines: int, columns: int) -> None:
    triple = (0.5, 0.4, 0.6)
    name = "a-defense-with-a-rather-long-name[x=1]"
    grid = tuple((0.5,) * columns for _ in range(lines))
    rows = tuple(plots.Line(1, f"model{i}", name, triple, triple) for i in range(lines))
    board = plots.Board(
        "slug", "data, linf, ε = 2/255", "pseudo-MOS", rows,
        tuple(("art:ProjectedGradientDescent[max_iter=10]", f"o{i}") for i in range(columns)), 0,
        (plots.Panel("oblivious", grid, grid),),
    )  # fmt: skip
    with mpl.rc_context(plots.STYLE):
        for figure in (plots._dots(board), plots._heat(board, "srocc"), plots._heat(board, "shift"), plots._scatter(board)):
            figure.draw_without_rendering()
            inside, used = figure.bbox_inches, figure.get_tightbbox()
            assert used.x0 >= inside.x0 - 0.01
            assert used.y0 >= inside.y0 - 0.01
            assert used.x1 <= inside.x1 + 0.01
            assert used.y1 <= inside.y1 + 0.01


def test_spread_keeps_order_and_distance() -> None:
    placed = plots.spread([0.5, 0.5, 0.5, 0.98, 0.99], 0.1)
    assert min(np.diff(placed)) >= 0.1 - 1e-12
    assert max(placed) <= 1
    assert plots.spread([0.2, 0.8], 0.1) == [0.2, 0.8]
    assert plots.spread([], 0.1) == []
    assert plots.spread([0.5] * 3, 9)[-1] == 1
