"""Two defenses or attacks side by side: paired differences, corrected p, seeds of training, text, table and plot."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from scipy.stats import spearmanr
from typer.testing import CliRunner

from iqarena.bench.cli.app import app
from iqarena.bench.cli.comparison_table import headline, notes, print_comparisons, write
from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.plots.effort import defense_aware_curves, effort
from iqarena.bench.metrics.bootstrap import COMPARED, holm, interval, over_seeds, p_value
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.results.comparison import compare, frame
from iqarena.bench.results.ranking import tracks
from iqarena.bench.results.report import flag_table
from iqarena.bench.results.store import Records
from tests.support.board_records import BAD, CLEAN, GOOD, IMAGES, MOS, NOISE, PER_REFERENCE, WEAK, put


def filled(records: Records) -> Records:
    """Fill a results folder: two defenses under two attacks and noise; the second is better under one of them."""
    put(records, BAD, defense="none", attack="pgd")
    put(records, GOOD, defense="cprl", attack="pgd")
    put(records, GOOD, defense="none", attack="fgsm")
    put(records, GOOD, defense="cprl", attack="fgsm")
    for defense in ("none", "cprl"):
        put(records, CLEAN + 0.01 * NOISE[5], defense=defense, attack="random-noise")
    put(records, WEAK, defense="cprl", attack="square")
    return records


def srocc(values):
    return spearmanr(MOS, values).statistic


def test_defenses_are_paired_attack_by_attack_and_under_the_worst(records: Records) -> None:
    (comparison,) = compare(filled(records), "none", "cprl")
    assert (comparison.kind, comparison.context, comparison.images, comparison.references) == (
        "defense",
        "m",
        IMAGES,
        IMAGES // PER_REFERENCE,
    )
    rows = {row.condition: row for row in comparison.rows["srocc"]}
    noise = "random-noise, away, oblivious (control)"
    assert list(rows) == ["no attack", "worst of 2 attacks", "fgsm, away, oblivious", "pgd, away, oblivious", noise]
    pgd = rows["pgd, away, oblivious"]
    assert [value[0] for value in pgd.values] == pytest.approx([srocc(BAD), srocc(GOOD)])
    assert pgd.difference[0] == pytest.approx(srocc(GOOD) - srocc(BAD))
    assert rows["worst of 2 attacks"].difference[0] == pytest.approx(srocc(GOOD) - srocc(BAD))
    assert rows["no attack"].difference == (0, 0, 0)
    assert [comparison.better("srocc", row) for row in rows.values()] == ["", "cprl", "", "cprl", ""]
    shifts = {row.condition: row for row in comparison.rows["shift"]}
    assert shifts["pgd, away, oblivious"].values[0][0] == pytest.approx(np.abs(BAD - CLEAN).mean())
    assert comparison.better("shift", shifts["pgd, away, oblivious"]) == "cprl", "less shift is better"
    assert comparison.unmatched == ("square, away, oblivious",)


def test_differences_are_resampled_together_and_corrected_for_their_number(records: Records) -> None:
    (comparison,) = compare(filled(records), "none", "cprl")
    sample = ResampledStatistics.of([f"r{i // PER_REFERENCE:02d}" for i in range(IMAGES)], COMPARED)
    values = {name: sample.spearman(MOS, adv) for name, adv in {"bad": BAD, "good": GOOD}.items()}
    difference = values["good"] - values["bad"]
    pgd = next(row for row in comparison.rows["srocc"] if row.condition == "pgd, away, oblivious")
    assert pgd.difference == pytest.approx(interval(difference))
    same = np.zeros(COMPARED + 1)
    assert pgd.p == pytest.approx(holm([p_value(values) for values in (same, difference, same, difference, same)])[1])
    alone = [interval(one) for one in values.values()]
    width, separate = pgd.difference[2] - pgd.difference[1], sum(one[2] - one[1] for one in alone)
    assert width < separate, "pairing pays"


def test_the_order_of_the_two_turns_the_differences_around(records: Records) -> None:
    (one,), (other,) = compare(filled(records), "none", "cprl"), compare(records, "cprl", "none")
    for a, b in zip(one.rows["srocc"], other.rows["srocc"], strict=True):
        assert a.condition == b.condition
        assert b.difference == pytest.approx((-a.difference[0], -a.difference[2], -a.difference[1]))
        assert (a.p, one.better("srocc", a)) == pytest.approx((b.p, other.better("srocc", b)))


def test_attacks_are_compared_on_every_target_by_their_worst_objective(records: Records) -> None:
    for model in ("m", "n"):
        put(records, GOOD, model=model, attack="weak", objective="raise")
        put(records, WEAK, model=model, attack="weak", objective="lower")
        put(records, BAD, model=model, attack="strong")
    put(records, BAD, model="o", attack="strong")
    (comparison,) = compare(records, "weak", "strong")
    assert (comparison.kind, comparison.context) == ("attack", "")
    rows = {row.condition: row for row in comparison.rows["srocc"]}
    assert list(rows) == ["m, oblivious", "n, oblivious"]
    assert [value[0] for value in rows["m, oblivious"].values] == pytest.approx([srocc(WEAK), srocc(BAD)])
    assert comparison.better("srocc", rows["m, oblivious"]) == "strong", "the stronger attack leaves less"
    assert comparison.unmatched == ("o, oblivious",)
    (only,) = compare(records, "weak", "strong", model="n")
    assert [row.condition for row in only.rows["srocc"]] == ["n, oblivious"]


def test_weights_of_one_recipe_are_seeds_of_its_training(records: Records) -> None:
    seeds = [MOS + 0.1 * NOISE[i] for i in range(3)]
    for number, adv in enumerate(seeds):
        put(records, adv, defense=f"cprl[weights=runs/{number}.safetensors]")
    put(records, BAD, defense="none")
    put(records, MOS, defense="cprl[other=1]")
    (comparison,) = compare(records, "none", "cprl")
    assert comparison.seeds == (1, 3)
    row = next(row for row in comparison.rows["srocc"] if row.condition == "pgd, away, oblivious")
    assert row.values[1][0] == pytest.approx(np.mean([srocc(adv) for adv in seeds]))
    sample = ResampledStatistics.of([f"r{i // PER_REFERENCE:02d}" for i in range(IMAGES)], COMPARED)
    stack = np.stack([sample.spearman(MOS, adv) for adv in seeds])
    assert row.values[1] == pytest.approx(interval(over_seeds(stack, 1)))
    assert "cprl: means over 3 trainings" in notes(comparison)[0]
    (one,) = compare(records, "none", "cprl[weights=runs/1.safetensors]")
    assert one.seeds == (1, 1)


def test_every_track_and_model_that_has_both_is_compared(records: Records) -> None:
    filled(records)
    for defense in ("none", "cprl"):
        put(records, GOOD, defense=defense, model="n")
        put(records, GOOD, defense=defense, eps=4 / 255)
    put(records, GOOD, defense="none", model="alone")
    comparisons = compare(records, "none", "cprl")
    assert [(round(comparison.track.eps * 255), comparison.context) for comparison in comparisons] == [
        (2, "m"),
        (2, "n"),
        (4, "m"),
    ]


def test_one_reference_gives_values_and_no_intervals(records: Records) -> None:
    for defense, adv in (("none", BAD), ("cprl", GOOD)):
        put(records, adv, defense=defense, references=1)
    (comparison,) = compare(records, "none", "cprl")
    for row in comparison.rows["srocc"]:
        assert math.isnan(row.p)
        assert all(math.isnan(end) for end in row.difference[1:])
        assert comparison.better("srocc", row) == ""


def test_images_without_labels_are_compared_by_their_clean_qualities(records: Records) -> None:
    for defense, adv in (("none", BAD), ("cprl", GOOD)):
        put(records, adv, defense=defense, label_kind="none", mos=np.full(IMAGES, np.nan))
    (comparison,) = compare(records, "none", "cprl")
    assert [row.condition for row in comparison.rows["srocc"]] == ["worst of 1 attack", "pgd, away, oblivious"]
    assert comparison.rows["srocc"][0].values[1][0] == pytest.approx(spearmanr(CLEAN, GOOD).statistic)
    assert "SROCC with the clean qualities" in headline(comparison)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("none", "cpr", "no record of 'cpr'; there are cprl"),
        ("nothing-like-it", "none", "no record of 'nothing-like-it'"),
        ("none", "pgd", "none is a defense and pgd an attack; give two defenses or two attacks"),
        ("none", "jpeg", "nothing was run with both none and jpeg"),
    ],
)
def test_what_cannot_be_compared_is_one_line(records: Records, first: str, second: str, message: str) -> None:
    put(filled(records), GOOD, defense="jpeg", model="another")
    with pytest.raises(UserError) as error:
        compare(records, first, second)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_records_at_all_is_one_line(records: Records) -> None:
    with pytest.raises(UserError, match="there are none at all"):
        compare(records, "none", "cprl")


def test_what_is_printed_can_be_read_without_the_code(records: Records) -> None:
    comparisons = compare(filled(records), "none", "cprl")
    screen = Console(file=io.StringIO(), width=100)
    print_comparisons(comparisons, screen)
    text = screen.file.getvalue()
    assert f"Worst of 2 attacks: SROCC with the pseudo-MOS labels {srocc(BAD):.2f}".replace("-0", "−0") in " ".join(
        text.split()
    )
    assert "cprl holds better." in " ".join(text.split())
    assert "Without any attack" in text
    assert "Only 12 reference images" in text
    assert "Not compared, because not both were run with it: square, away, oblivious." in " ".join(text.split())
    assert "corrected by Holm" in " ".join(text.split())
    assert all(len(line) <= 100 for line in text.splitlines())


def test_flags_stand_below_the_table(records: Records) -> None:
    put(records, GOOD, defense="none", attack="pgd", setting="adaptive")
    put(records, GOOD, defense="cprl", attack="pgd", setting="adaptive", flags=["zero-gradient"])
    (comparison,) = compare(records, "none", "cprl")
    assert comparison.flags[0] == ()
    assert comparison.flags[1][0].startswith("zero-gradient: in pgd, away, adaptive")
    assert any("Flag of cprl, see docs/flags.md: zero-gradient" in note for note in notes(comparison))


def test_a_table_and_a_plot_are_written(records: Records, tmp_path: Path) -> None:
    comparisons = compare(filled(records), "none", "cprl")
    table, plot = write(comparisons, tmp_path / "out")
    rows = pd.read_csv(table)
    assert len(rows) == 5 + 4
    assert len(rows) == len(frame(comparisons))
    assert rows[rows.what == "pgd, away, oblivious"].better.tolist() == ["cprl", "cprl"]
    with Image.open(plot) as image:
        assert image.width > 1000
        assert image.convert("L").getextrema()[0] < 100
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        write(comparisons, blocked)


def test_attacks_have_a_plot_of_their_effort_where_records_tell(records: Records, tmp_path: Path) -> None:
    for attack in ("pgd", "apgd"):
        for setting in ("oblivious", "adaptive"):
            put(records, BAD, attack=attack, setting=setting, defense="jpeg")
    comparisons = compare(records, "pgd", "apgd")
    point = {
        "dataset": "demo",
        "norm": "linf",
        "eps": 2 / 255,
        "model": "m",
        "defense": "jpeg",
        "objective": "away",
        "source": "",
    }
    curves = pd.DataFrame(
        {**point, "attack": attack, "setting": setting, "forwards": forwards, "abs_gain": 0.01 * forwards, "srocc": 0.5}
        for attack in ("pgd", "apgd", "other") for setting in ("oblivious", "adaptive") for forwards in (1, 2, 5)
    )  # fmt: skip
    paths = write(comparisons, tmp_path / "out", curves)
    assert [path.name.split("-")[0] for path in paths] == ["compare", "compare", "effort"]
    figure = effort(defense_aware_curves(curves), "heading", "below")
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3]
    assert len(lines) == 3, "one line for each attack, of the adaptive setting"
    assert len(figure.axes) == 2
    elsewhere = write(comparisons, tmp_path / "out", curves.assign(eps=0.5))
    assert len(elsewhere) == 2


def test_the_command(records: Records, tmp_path: Path) -> None:
    filled(records)
    done = CliRunner().invoke(
        app, ["compare", "none", "cprl", "--results", str(records.folder), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    assert "holds better" in done.output
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_flags_are_those_of_the_board(records: Records) -> None:
    """Flags of cells that newer ones have replaced, and of other norms, do not count."""
    put(records, BAD, defense="none")
    put(records, GOOD, defense="cprl", precision="bfloat16", flags=["zero-gradient"], setting="adaptive", finished="1")
    put(records, GOOD, defense="cprl", setting="adaptive", finished="2")
    put(records, GOOD, defense="cprl", finished="2")
    put(records, GOOD, defense="cprl", norm="l2", flags=["left-ball"])
    (comparison,) = compare(records, "none", "cprl")
    shown = {row.defense: row.signs for track, rows in tracks(records).items() if track.norm == "linf" for row in rows}
    assert comparison.flags == ((), ()) == (shown["none"], shown["cprl"])
    assert flag_table(records).values.tolist() == [["demo", "m", "cprl", "left-ball", "in pgd, away, oblivious"]]
    put(records, BAD, defense="none", norm="l2")
    assert [comparison.flags[1] for comparison in compare(records, "none", "cprl")] == [
        ("left-ball: in pgd, away, oblivious",),
        (),
    ]


def test_chains_of_defenses_can_be_compared_and_are_in_nobodys_way(records: Records) -> None:
    chain = "jpeg[quality=30]+cprl[weights=runs/1.safetensors]"
    put(filled(records), WEAK, defense=chain)
    (comparison,) = compare(records, "none", "cprl")
    assert comparison.seeds == (1, 1), "a chain that ends in it is not it"
    (chained,) = compare(records, "none", "jpeg[quality=30]+cprl")
    assert chained.names == ("none", "jpeg[quality=30]+cprl")
    row = next(row for row in chained.rows["srocc"] if row.condition == "pgd, away, oblivious")
    assert row.values[1][0] == pytest.approx(srocc(WEAK))
    with pytest.raises(UserError, match="no record of 'cprl"):
        compare(records, "none", "cprl+jpeg[quality=30]")
