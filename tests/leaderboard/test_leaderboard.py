"""Ranks, intervals and pages made from records; expected values are by hand or by scipy."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from iqarena.bench.cells import Cell, expand
from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.content import content
from iqarena.bench.leaderboard.render import check, prune_images, render
from iqarena.bench.leaderboard.size_curves import families
from iqarena.bench.metrics.bootstrap import resample_weights
from iqarena.bench.results.formatting import format_eps
from iqarena.bench.results.ranking import Row, tracks
from iqarena.bench.results.store import Records
from iqarena.bench.suite import load_suite
from tests.support.board_records import BAD, CLEAN, GOOD, IMAGES, MOS, NOISE, PER_REFERENCE, WEAK, put


@pytest.fixture
def unplotted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the plots, which are slow and which not every test checks."""
    monkeypatch.setattr(plots, "draw", lambda *_: [])


def only(records: Records) -> dict[tuple[str, str], Row]:
    """Return the rows of the only track."""
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
    assert row.flags == ("zero-gradient", "noise-as-good")  # the control moves qualities most
    assert row.spread == pytest.approx(np.percentile(CLEAN, 75) - np.percentile(CLEAN, 25))
    assert (row.images, row.references) == (IMAGES, IMAGES // PER_REFERENCE)


def test_interval_is_of_the_least_and_pairs_cells_by_image(records: Records) -> None:
    attacked = [MOS + 0.4 * NOISE[4], MOS + 0.4 * NOISE[5]]
    put(records, attacked[0], attack="a")
    put(records, attacked[1], attack="b", backwards=True)  # rows in another order
    row = only(records)["m", "none"]
    weights = resample_weights([f"r{i // PER_REFERENCE:02d}" for i in range(IMAGES)])[1:].astype(int)
    replicates = []
    for counts in weights:
        mos, *scores = (rankdata(np.repeat(values, counts)) for values in (MOS, *attacked))
        replicates.append([np.corrcoef(mos, ranks)[0, 1] for ranks in scores])
    expected = np.percentile(np.min(replicates, axis=1), [2.5, 97.5])
    assert row.robust[1:] == pytest.approx(expected)
    worst = int(np.argmin([spearmanr(MOS, values).statistic for values in attacked]))
    alone = np.percentile(np.array(replicates)[:, worst], [2.5, 97.5])
    assert row.robust[1] <= alone[0]
    assert row.robust[2] < alone[1]  # the interval of the worst cell alone would be too optimistic


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
    put(records, np.full(IMAGES, np.nan), defense="failing", attack="fgsm", status="failed", errors=["ValueError: no"])
    rows = only(records)
    assert [defense for _, defense in rows] == ["whole", "failing", "lacking"]
    assert rows["m", "whole"].rank == 1
    assert rows["m", "lacking"].rank is rows["m", "failing"].rank is None
    assert rows["m", "lacking"].missing == ("fgsm, away, oblivious",)
    assert rows["m", "failing"].missing == ("fgsm, away, oblivious (failed: ValueError: no)",)
    assert rows["m", "lacking"].robust[0] == 1


def test_an_attack_tried_on_few_rows_counts_there_and_takes_no_rank_elsewhere(records: Records) -> None:
    for model in ("a", "b", "c"):
        put(records, GOOD, model=model)
    put(records, BAD, model="a", attack="new")
    rows = only(records)
    assert all(row.complete for row in rows.values())
    assert rows["a", "none"].worst_attack.startswith("new")
    assert {name: row.rank for (name, _), row in rows.items()} == {"b": 1, "c": 1, "a": 3}


@pytest.mark.usefixtures("unplotted")
def test_a_row_without_any_ok_cell_is_there_without_values(records: Records) -> None:
    put(records, GOOD, model="a")
    put(records, np.full(IMAGES, np.nan), model="b", status="failed")
    row = only(records)["b", "none"]
    assert not row.complete
    assert np.isnan(row.robust).all()
    assert row.cells == ()
    assert render(records, records.folder.parent)


def test_equal_scores_count_as_zero_and_do_not_hide(records: Records) -> None:
    put(records, GOOD, attack="fgsm")
    put(records, np.full(IMAGES, 0.5), attack="pgd")
    row = only(records)["m", "none"]
    assert row.robust[0] == 0
    assert row.worst_attack.startswith("pgd")


def test_one_reference_gives_no_interval_and_separates_nobody(records: Records) -> None:
    put(records, MOS, model="a", references=1)
    put(records, BAD, model="b", references=1)
    rows = only(records)
    assert np.isnan(rows["a", "none"].robust[1:]).all()
    assert [row.rank for row in rows.values()] == [1, 1]


def test_cells_on_other_images_count_as_missing(records: Records) -> None:
    for model in ("a", "b"):
        put(records, GOOD, model=model)
    put(records, MOS[:8], model="c")
    row = only(records)["c", "none"]
    assert row.missing == ("pgd, away, oblivious (run on other images)",)
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
    assert [track[:4] for track in tracks(records)] == [
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
    assert format_eps(norm, eps) == text


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
    assert len(first) == 3 + 8
    assert check(records, tmp_path) == []


def test_page_says_what_it_must(records: Records, tmp_path: Path) -> None:
    render(filled(records), tmp_path / "out")
    text = (tmp_path / "out/leaderboard.md").read_text()
    shown = f"**{spearmanr(MOS, WEAK).statistic:.2f}**"
    assert re.search(rf"^\| \d \| m \| jpeg\[quality=75\\\|x\] \(none\) \| .*{re.escape(shown)}", text, re.M)
    assert "reconstruction from the abstracts of [arXiv 2404.19567]" in text
    assert "labels are pseudo-MOS, not people's opinions" in text
    assert "24 images of 12 references; labels: pseudo-MOS." in text
    assert "Only 12 reference images" in text
    assert "`iqarena leaderboard --results ../results`" in text
    assert re.search(r"^- m, half: .* Missing: pgd, away, adaptive\.$", text, re.M)
    assert "`iqarena run ../results/suites/demo-linf-2-255.yaml --model MODEL --defense DEFENSE --out runs/again`" in text
    links = re.findall(r"\(([^()]*\.(?:png|svg|html))\)", text)
    assert len(links) == 8 + 1
    assert all((tmp_path / "out" / link).is_file() for link in links)
    rows = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {13}
    assert "[m](https://example.org/m)" in text
    assert "certified" not in text


def test_check_names_each_file_that_differs(records: Records, tmp_path: Path) -> None:
    put(records, GOOD)
    assert len(check(records, tmp_path)) == 3 + 8
    render(records, tmp_path)
    stale = records.folder / "plots/robust-srocc-last-year.png"
    stale.write_bytes(b"")
    (tmp_path / "leaderboard.md").write_text("mine is better\n")
    missing = records.folder / "plots/quality-shift-demo-linf-2-255.svg"
    missing.unlink()
    assert check(records, tmp_path) == [
        f"{tmp_path / 'leaderboard.md'}: differs from what the records give", f"{missing}: missing",
        f"{stale}: not of these records; delete it",
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


def test_without_labels_rows_rank_by_their_agreement_with_the_clean_qualities(records: Records, tmp_path: Path) -> None:
    for model, adv in {"steady": CLEAN + 0.02 * NOISE[4], "moved": -CLEAN}.items():
        put(records, adv, model=model, label_kind="none")
        put(records, CLEAN, model=model, label_kind="none", attack="random-noise")
    rows = only(records)
    assert [(name, row.rank) for (name, _), row in rows.items()] == [("steady", 1), ("moved", 2)]
    assert rows["moved", "none"].robust[0] == pytest.approx(-1)
    assert rows["steady", "none"].robust[0] == pytest.approx(spearmanr(CLEAN, CLEAN + 0.02 * NOISE[4]).statistic)
    assert np.isnan(rows["steady", "none"].clean[0])
    render(records, tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| stability SROCC |" in text
    assert "clean SROCC" not in text
    assert not list(records.folder.glob("plots/clean-robust-*"))


@pytest.mark.usefixtures("unplotted")
def test_weights_of_others_have_a_section_that_says_how_to_get_them(records: Records, tmp_path: Path) -> None:
    put(records, GOOD, model="m")
    put(records, CLEAN, model="nima-mobilenet[weights=$DATA/far/away.safetensors]", label_kind="none")
    render(records, tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    own, others = text.split("## Published weights that are not shipped")
    assert "nima" not in own.partition("##")[2]
    assert "`nima-mobilenet[weights=$DATA/far/away.safetensors]`: the file is a safetensors file with idealo's" in others
    assert r"| nima-mobilenet[weights=away.safetensors] |" in others


@pytest.mark.usefixtures("unplotted")
def test_certified_srocc_has_a_column_only_where_there_is_one(records: Records, tmp_path: Path) -> None:
    put(records, GOOD, norm="l2", eps=0.1)
    put(records, GOOD, norm="l2", eps=0.1, defense="smoothed", certified=0.25)
    assert only(records)["m", "smoothed"].certified == 0.25
    render(records, tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    head, _, *rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {row[2]: row[head.index("certified SROCC")] for row in rows} == {"none": "", "smoothed (none)": "0.25"}


def test_what_holds_in_l2_certifies_nothing_in_another_norm(records: Records) -> None:
    put(records, WEAK, defense="smoothed", certified=0.99)
    assert np.isnan(only(records)["m", "smoothed"].certified)


def test_examples_are_the_images_that_moved_most_and_least_under_the_worst_kept_attack(records: Records) -> None:
    put(records, GOOD, attack="fgsm", kept=True, backwards=True)
    put(records, WEAK, attack="nes", kept=True)
    put(records, BAD, attack="pgd")  # worse, but its images are gone
    put(records, GOOD, model="without")
    (board,) = content(records).boards
    most, least = board.examples
    shift = np.abs(WEAK - CLEAN)
    for example, index in ((most, shift.argmax()), (least, shift.argmin())):
        assert example.cell.key.attack == "nes"
        assert example.image_id == f"p{index:02d}"
        assert (example.clean, example.adv) == pytest.approx((CLEAN[index], WEAK[index]))
        before, after, difference = example.pixels()
        assert {int(before.max()), int(after.max()), int(difference.max())} == {int(index), int(index) + 1, 128 + 16}
    assert most.moved_most
    assert not least.moved_most


@pytest.mark.usefixtures("unplotted")
def test_images_that_are_not_shown_can_go_without_a_change_to_the_board(records: Records, tmp_path: Path) -> None:
    put(records, GOOD, attack="fgsm", kept=True)
    put(records, WEAK, attack="nes", kept=True)
    render(records, tmp_path)
    assert prune_images(records) == 3 * IMAGES - 4
    assert len(list(records.kept_images.folder.rglob("*.png"))) == 4
    assert not [line for line in check(records, tmp_path) if not line.endswith("missing")]
    assert prune_images(records) == 0


def test_suites_from_records_expand_to_the_same_cells(records: Records, tmp_path: Path) -> None:
    for defense in ("none", "jpeg"):
        for setting in ("oblivious", "adaptive"):
            put(records, GOOD, attack="pgd[steps=3]", objective="raise", setting=setting, defense=defense, model="cnniqa")
            put(records, GOOD, attack="pgd[steps=3]", objective="lower", setting=setting, defense=defense, model="cnniqa")
            put(records, GOOD, attack="nes", objective="raise", setting=setting, defense=defense, model="cnniqa", queries=50)
        put(records, GOOD, attack="pgd", objective="target", defense=defense, model="cnniqa", target=0.25, seed=7)
    (board,) = content(records).boards
    assert len(board.reruns) == 3
    expanded = set()
    for again in board.reruns:
        (tmp_path / again.name).write_text(again.text)
        suite = load_suite(str(tmp_path / again.name))
        assert suite.limit == IMAGES
        expanded |= {tuple(asdict(cell).items()) for cell in expand(suite)}
    assert expanded == {tuple(asdict(Cell(**record["cell"])).items()) for record in records.all()}
    row = board.rows[0]
    assert board.commands(row, "results").startswith(
        f"iqarena run results/suites/demo-linf-2-255-1.yaml --model {row.model} --defense {row.defense} --out runs/again && "
    )


def test_transfer_is_made_again_from_the_same_sources(records: Records, tmp_path: Path) -> None:
    put(records, GOOD, model="cnniqa", setting="transfer", source="resnet-iqa", attack="fgsm")
    put(records, GOOD, model="cnniqa", attack="fgsm")
    (again,) = content(records).boards[0].reruns
    (tmp_path / "s.yaml").write_text(again.text)
    cells = expand(load_suite(str(tmp_path / "s.yaml")))
    assert {(cell.setting, cell.source) for cell in cells} == {("oblivious", ""), ("transfer", "resnet-iqa")}


def test_curves_count_only_attacks_that_were_run_at_every_size(records: Records) -> None:
    for eps, adv in {1: GOOD, 2: WEAK, 4: BAD}.items():
        put(records, adv, eps=eps / 255)
    put(records, -MOS, eps=2 / 255, attack="only-here")
    (family,) = families(content(records).boards)
    assert family.sizes == ("clean", "1/255", "2/255", "4/255")
    assert family.attacks == 1
    (curve,) = family.curves
    assert curve.values == pytest.approx([spearmanr(MOS, values).statistic for values in (CLEAN, GOOD, WEAK, BAD)])


def test_a_size_of_few_rows_takes_no_attack_from_the_curves(records: Records) -> None:
    for eps, defense in [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "b"), (2, "c"), (4, "a")]:
        put(records, GOOD, eps=eps / 255, defense=defense, attack="only-here" if eps == 4 else "pgd")
    (family,) = families(content(records).boards)
    assert (family.sizes, family.attacks, len(family.curves)) == (("clean", "1/255", "2/255"), 1, 3)


def test_one_size_makes_no_curve(records: Records) -> None:
    put(records, GOOD)
    put(records, GOOD, norm="l2", eps=1.0)
    assert families(content(records).boards) == []
