"""The study of CPRL: its suite, its trainings, and its page and plots on records with known numbers."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from iqarena.bench.cells import expand
from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES
from iqarena.bench.results.store import Records
from iqarena.bench.study import numbers, plots
from iqarena.bench.study import suite as suites
from iqarena.bench.study.__main__ import app
from iqarena.bench.study.numbers import AttackCase, Findings, findings, frame
from iqarena.bench.study.page import page, write
from iqarena.bench.study.search import read_recipes
from iqarena.bench.study.training import trainings
from iqarena.bench.study.variants import MODEL, SEEDS, VARIANTS, available, trained_variants, variants_by_spec
from iqarena.bench.study.verdict import hidden, terms
from iqarena.bench.suite import load_suite
from iqarena.defenses.base import TrainedDefense
from tests.support.board_records import CLEAN, MOS, NOISE, put
from tests.support.study_records import BY_NAME, HELD, SOME, fill

ROOT, RESAMPLES = Path(suites.__file__).parents[2], numbers.RESAMPLES


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "RESAMPLES", 200)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    results = Records(tmp_path_factory.mktemp("study"))
    fill(results, HELD)
    return results


@pytest.fixture
def study(records: Records) -> Findings:
    (one,) = findings(records, SOME)
    return one


# --- what is compared


def test_the_committed_suite_is_what_the_variants_say() -> None:
    assert suites.PATH.read_text(encoding="utf-8") == suites.text(), "run python -m iqarena.bench.study suite --write"
    cells = expand(load_suite("cprl"))
    specs = {(cell.model, cell.defense) for cell in cells}
    assert specs == set(variants_by_spec())
    assert sum(len(section.cells) for section in suites.sections()) == len(cells)
    for variant in VARIANTS:  # weights of another training are refused by the card, so the recipe must be a spec
        assert isinstance(DEFENSES.build(variant.recipe), TrainedDefense)
        assert [role for role in plots.ROLES if role == variant.role]


def test_sections_make_up_the_suite_and_each_can_be_written_alone() -> None:
    whole = set(expand(load_suite("cprl")))
    parts: list[set[object]] = []
    for section in suites.sections():
        parts.append(set(section.cells))
        assert suites.text([section.name]).startswith("# CPRL (our reconstruction")
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)
    with pytest.raises(UserError, match=r"no section 'cores'; the suite has core, "):
        suites.text(["cores"])


def test_a_suite_of_a_section_is_one_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "strong.yaml"
    file.write_text(suites.text(["strong"]), encoding="utf-8")
    cells = expand(load_suite(str(file)))
    assert {cell.precision for cell in cells if cell.attack.startswith("pgd")} == {"bfloat16"}
    assert {cell.precision for cell in cells if cell.attack.startswith("standard")} == {"float32"}
    # what an ensemble and its members share is paid once: 900 steps and 1,000 questions of 60 images, and the cells
    both = [cell for cell in cells if cell.precision == "float32" and "steps" not in cell.attack]
    defenses = len({cell.defense for cell in both})
    steps, questions = 60 * 11.5e-3 / 60, 60 * 4.5e-3 / 60
    least = defenses * (900 * steps + 1000 * questions)
    # beside the steps, Auto-PGD asks for a forward pass at the end of a run, and the one-step attack is a step
    assert least < suites.minutes(both) < 1.05 * least + 1.2 * len(both) / 60


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty zoo, beside an empty folder of weights."""
    monkeypatch.setenv("IQARENA_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.setattr("iqarena.models.zoo.ZOO", tmp_path / "zoo")
    for name in ("own", "zoo"):
        (tmp_path / name).mkdir()
    return tmp_path / "zoo"


def test_a_suite_can_be_of_the_weights_that_are_there(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights of the study are at hand"):
        suites.text(runs=available(trained_variants()))
    (tmp_path / "own" / "resnet-iqa@plain-1.safetensors").touch()
    (zoo / "resnet-iqa+cprl.safetensors").touch()
    file = tmp_path / "some.yaml"
    file.write_text(CliRunner().invoke(app, ["suite", "core", "surrogates", "--at-hand"]).output, encoding="utf-8")
    variants = {variants_by_spec()[cell.model, cell.defense] for cell in expand(load_suite(str(file)))}
    cprl = BY_NAME["CPRL"]
    assert variants == {(BY_NAME["no defense"], 1, ""), *((cprl, 0, through) for through in ("", *cprl.surrogates))}


def test_a_suite_can_be_of_some_seeds(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(CliRunner().invoke(app, ["suite", "set", "--seed", "1", "--seed", "2"]).output, encoding="utf-8")
    variants = {variants_by_spec()[cell.model, cell.defense] for cell in expand(load_suite(str(file)))}
    assert variants == {(variant, seed, "") for variant in VARIANTS for seed in (1, 2)}
    refused = CliRunner().invoke(app, ["suite", "core", "--seed", "7"])
    assert str(refused.exception) == "no seed 7; the study has 0, 1, 2"


def test_every_spec_stands_for_one_variant_and_seed() -> None:
    known = variants_by_spec()
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert len(known) == len(SEEDS) * sum(1 + len(variant.surrogates) for variant in VARIANTS)
    assert known[MODEL, "cprl[weights=default-1,through=identity]"] == (BY_NAME["CPRL"], 1, "identity")
    assert known["resnet-iqa[weights=plain-2]", "none"] == (BY_NAME["no defense"], 2, "")


def test_trainings_are_all_variants_with_all_seeds_in_files_of_their_own(zoo: Path, tmp_path: Path) -> None:
    all_trainings = list(trainings())
    assert len({training.file(tmp_path) for training in all_trainings}) == len(all_trainings) == len(VARIANTS) * len(SEEDS)
    assert [training.seed for training in all_trainings[: len(VARIANTS)]] == [0] * len(VARIANTS)
    first = next(t for t in all_trainings if t.variant.name == "CPRL without necessity" and t.seed == 1)
    assert first.file(tmp_path).name == "resnet-iqa+cprl@no-necessity-1.safetensors"
    command = first.command(Path("T"), Path("S"), Path("W"))
    assert "-d 'cprl[necessity_weight=0]'" in command
    assert "--passes 200000 --crop 96 --learning-rate 0.001 --ema 0.995 --seed 1 --label no-necessity-1" in command


def test_the_commands_of_what_is_missing_are_printed(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "resnet-iqa@plain-1.safetensors").touch()
    (zoo / "resnet-iqa+cprl@default-1.safetensors").touch()
    options = ["--root", "T", "--start", "S", "--out", str(tmp_path), "--print"]
    lines = CliRunner().invoke(app, ["train", *options]).output.splitlines()
    assert len(lines) == len(VARIANTS) * len(SEEDS) - 2
    halves = [CliRunner().invoke(app, ["train", *options, "--part", part]).output.splitlines() for part in ("1/2", "2/2")]
    assert sorted(halves[0] + halves[1]) == sorted(lines)


def test_what_is_searched_can_be_built() -> None:
    recipes = read_recipes(Path(suites.__file__).with_name("candidates.txt"))
    assert len(set(recipes)) == len(recipes) > 15
    assert all(isinstance(DEFENSES.build(recipe), TrainedDefense) for recipe in recipes)


# --- numbers


def test_a_robust_srocc_is_the_least_over_what_all_met_mean_over_seeds(study: Findings) -> None:
    assert (study.dataset, study.images, study.references, len(study.sizes)) == ("demo", 24, 12, 2)
    size = study.sizes[0]
    met = {"score-reflection-away", "pgd[steps=40]"}
    assert size.common == {AttackCase(attack, "away", setting) for attack in met for setting in ("adaptive", "oblivious")}
    variant = BY_NAME["CPRL"]
    least = []
    for seed in SEEDS:
        robustness = HELD["CPRL"] - 0.02 * seed
        attacked = [
            robustness * CLEAN + 0.15 * NOISE[(seed + 1) % 3],
            (robustness + 0.1) * CLEAN + 0.15 * NOISE[(seed + 2) % 3],
            CLEAN,
        ]
        least.append(min(stats.spearmanr(MOS, adv).statistic for adv in attacked))
    assert float(size.robust(variant)[0]) == pytest.approx(np.mean(least))
    assert float(size.clean(variant)[0]) == pytest.approx(stats.spearmanr(MOS, CLEAN).statistic)
    # a model without defense is attacked in one setting only, and is whole with it
    assert len(size.of(BY_NAME["no defense"])) == 3
    assert study.main is size


def test_a_surrogate_counts_against_its_variant_and_other_extra_attacks_do_not(tmp_path: Path) -> None:
    records = Records(tmp_path)
    fill(records, HELD, sizes=(2,))
    (before,) = findings(records, SOME)
    model, defense = BY_NAME["CPRL"].spec(0, "identity")
    put(records, -CLEAN, model=model, defense=defense, attack="pgd[steps=40]", setting="adaptive")
    model, defense = BY_NAME["adversarial training"].spec(0)
    put(records, -CLEAN, model=model, defense=defense, attack="standard", setting="adaptive")
    (after,) = findings(records, SOME)
    cprl, base = BY_NAME["CPRL"], BY_NAME["adversarial training"]
    by_surrogate = float(stats.spearmanr(MOS, -CLEAN).statistic)
    assert float(after.main.of(cprl)[0].robust(after.main.common)[0]) == pytest.approx(by_surrogate)
    np.testing.assert_array_equal(after.main.robust(base), before.main.robust(base))
    least, by = after.main.of(base)[0].least
    assert str(by) == "standard, adaptive"
    assert least == pytest.approx(by_surrogate)
    assert "CPRL, seed 0, by surrogate" in hidden(after.main)
    assert "At 2/255 nothing found what exact gradients miss, of transfer (none is lower)." in hidden(before.main)
    text = page([after], None)
    assert re.search(r"^\| adversarial training, seed 0 \| 5 \| .* \| standard, adaptive \|$", text, re.M) is None


def test_a_run_that_lacks_attacks_is_left_out_and_named(tmp_path: Path) -> None:
    records = Records(tmp_path)
    fill(records, HELD, sizes=(2,))
    for folder in records.cells.iterdir():
        if "default_2" in folder.name and "cprl" in folder.name and "pgd" in folder.name:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    (study,) = findings(records, SOME)
    assert study.main.left_out == [(BY_NAME["CPRL"], 2)]
    assert len(study.main.of(BY_NAME["CPRL"])) == 2
    assert "Left out, because attacks are missing: CPRL (seed 2)." in page([study], None)


def test_differences_are_paired_and_corrected(study: Findings) -> None:
    size = study.main
    base = BY_NAME["adversarial training"]
    against = size.against(base, size.variants, size.robust)
    assert set(against) == {"no defense", "CPRL", "CPRL without mask"}
    # no defense mirrors the order, on every resample
    assert against["no defense"].value[2] < -1
    assert against["no defense"].significant
    # the same qualities as those of adversarial training, seed by seed: only the draw of seeds differs
    assert against["CPRL"].value[0] == 0
    assert not against["CPRL"].significant


def test_a_table_has_every_variant_seed_size_and_attack(study: Findings) -> None:
    table = frame([study])
    assert len(table) == 3 * 2 * (3 * 6 + 3)
    row = table[(table.variant == "CPRL") & (table.seed == 1) & (table.attack == "random-noise") & (table.eps < 0.01)]
    assert row.srocc_adv.tolist() == row.srocc_clean.tolist()


def test_a_folder_without_the_study_is_one_line(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.prepare()
    put(records, CLEAN)
    with pytest.raises(UserError, match="no record of the study is in it; run the suite cprl"):
        findings(records)


# --- page


def test_the_page_has_tables_plots_and_the_search(study: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = tmp_path / "search.csv"
    pd.DataFrame(
        [("cprl", 0.8, 0.2, "score-reflection", 0.1, 100, 50_000), ("cprl[keep=0.3]", 0.7, 0.3, "fgsm", 0.1, 100, 50_000)],
        columns=["recipe", "clean SROCC", "robust SROCC", "worst attack", "largest mean |shift|", "images", "passes"],
    ).to_csv(search, index=False)
    written = list(write([study], search, tmp_path / "docs"))
    text = (tmp_path / "docs" / "cprl.md").read_text(encoding="utf-8")
    assert text.count("our reconstruction") == 1
    links = re.findall(r"\]\((cprl/[^)]+)\)", text)
    assert len(links) == 1 + 2 * 3
    assert all((tmp_path / "docs" / link).is_file() for link in links)
    assert {path.name for path in written} == {Path(link).name for link in links if "cells" not in link} | {"cprl.md"}
    with Image.open(tmp_path / "docs" / "cprl" / "robust-demo.png") as image:
        assert image.width > 800
    # the better one first
    assert text.index("`cprl[keep=0.3]` | 0.70 | 0.30 | 0.10") < text.index("`cprl` | 0.80 | 0.20 | 0.10")
    rows = re.findall(r"^\| (\S[^|]*?) \| 3 \| 0\.\d\d \[", text, re.M)
    assert rows[-1] == "no defense"
    monkeypatch.setattr("iqarena.bench.study.page.draw", lambda *_: [])
    searched = pd.read_csv(search)
    assert page([study], searched[searched.columns[::-1]]) == text, "by their names, not by their places"
    list(write([study], None, tmp_path / "docs"))  # the search stays
    assert (tmp_path / "docs" / "cprl.md").read_text(encoding="utf-8") == text


def test_the_committed_page_is_what_the_committed_records_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "RESAMPLES", RESAMPLES)
    study = findings(Records(ROOT / "results" / "cprl"))
    text = page(study, pd.read_csv(ROOT / "docs" / "cprl" / "search.csv"))
    again = "run python -m iqarena.bench.study page --results results/cprl"
    assert text == (ROOT / "docs" / "cprl.md").read_text(encoding="utf-8"), again
    rows = io.StringIO()
    frame(study).to_csv(rows, index=False, float_format="%.4f")
    assert rows.getvalue() == (ROOT / "docs" / "cprl" / "cells.csv").read_text(encoding="utf-8"), again


def test_plots_show_what_was_found(study: Findings) -> None:
    figures: list[Figure] = [plots.curves(study), plots.bars(study, study.main), plots.attacks(study, study.main)]
    lines = {tuple(np.asarray(line.get_ydata())) for line in figures[0].axes[0].lines}
    cprl = BY_NAME["CPRL"]
    expected = (float(study.main.clean(cprl)[0]), *(float(size.robust(cprl)[0]) for size in study.sizes))
    assert expected in lines
    names = [label.get_text() for label in figures[1].axes[0].get_yticklabels()]
    assert names[-1] == "no defense"
    assert len(names) == len(SOME)
    assert len(figures[2].axes[0].get_xticklabels()) == 4
    assert terms(study.main, cprl)
