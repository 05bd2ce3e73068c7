"""Flags: each on a fault planted for it, none on plain models, and the thresholds between the two."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iqarena import evaluate
from iqarena.bench.inference.runtime_flags import differ, optimises
from iqarena.bench.results.flags import FLAGS, diagnose
from iqarena.bench.results.report import flag_table
from iqarena.bench.results.store import Records, Scored
from iqarena.bench.results.track import Condition, FinishedCell
from tests.support.analytic_models import LinearModel, MeanModel, StochasticModel
from tests.support.planted import CASES, Case, Optimises, flags_of, line, planted_images

DOCS = Path(__file__).parents[2] / "docs" / "flags.md"
COUNT = 40
RNG = np.random.default_rng(0)
CLEAN = np.linspace(0.1, 0.9, COUNT)
AWAY = np.where(CLEAN < 0.5, 1, -1)
WOBBLE = RNG.normal(0, 0.01, (8, COUNT))


# --- planted


@pytest.mark.parametrize("case", CASES, ids=[case.flag or "plain" for case in CASES])
def test_a_planted_fault_raises_its_flag_and_the_docs_say_what_else_it_raises(case: Case, tmp_path: Path) -> None:
    raised = [flag.name for flag in flags_of(case, planted_images(tmp_path / "images"), tmp_path / "out")]
    if case.flag is None:
        assert raised == []
    else:
        assert case.flag in raised
    assert line(case, raised) in DOCS.read_text(encoding="utf-8").splitlines()


def test_there_is_a_planted_case_for_every_flag_and_a_section_that_says_when_why_and_what_to_do() -> None:
    assert {case.flag for case in CASES} == {None, *FLAGS}
    sections = re.split(r"^## ", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [section.split("\n")[0] for section in sections] == [*FLAGS, "Planted cases"]
    for section in sections[:-1]:
        assert re.findall(r"^\*\*(Raised if|Why|What to do)\*\*", section, re.MULTILINE) == [
            "Raised if",
            "Why",
            "What to do",
        ]


def test_a_shipped_plain_model_raises_nothing(tmp_path: Path) -> None:
    evaluate(
        "cnniqa", ["random-noise", "fgsm", "pgd[steps=3]", "square[queries=15]"], limit=8, out=tmp_path,
        settings=("oblivious", "adaptive"),
    )  # fmt: skip
    assert flag_table(Records(tmp_path)).empty


# --- thresholds


def cell(adv: Any, attack: str = "pgd", access: str = "gradient", **changes: Any) -> FinishedCell:
    """Build one finished cell on forty images of twenty references."""
    where = {"dataset": "demo", "model": "m", "defense": "d", "attack": attack, "objective": "away", "norm": "linf",
             "eps": 8 / 255, "queries": None, "setting": "adaptive", "source": ""}  # fmt: skip
    where |= {name: changes[name] for name in where if name in changes}
    record = {
        "cell": where, "status": changes.get("status", "ok"), "flags": changes.get("flags", []),
        "attack": {"access": access, "control": access == "none", "ensemble": changes.get("ensemble", False),
                   "parameters": changes.get("parameters", {})},
        "defense": {"stochastic": changes.get("stochastic", False)}, "model": {}, "curve": changes.get("curve", {}),
    }  # fmt: skip
    names = tuple((f"p{i:02d}", f"r{i // 2:02d}") for i in range(COUNT))
    return FinishedCell(
        Condition("", "", ""), record, Scored(names, changes.get("mos", CLEAN), changes.get("clean", CLEAN), np.asarray(adv))
    )


def moved(far: float, wobble: int = 0) -> Any:
    """Return attacked qualities at the given mean distance from the clean ones."""
    return CLEAN + AWAY * (far + WOBBLE[wobble])


def names(*cells: FinishedCell) -> list[str]:
    return [flag.name for flag in diagnose(cells)]


# the inter-quartile range of the clean qualities is 0.4, so `clearly` is 0.02


@pytest.mark.parametrize(
    ("flag", "rival"),
    [
        ("black-box-wins", {"attack": "square", "access": "score"}),
        ("transfer-wins", {"setting": "transfer", "source": "other"}),
        ("adaptive-weaker", {"setting": "oblivious"}),
    ],
)
def test_a_rival_must_be_clearly_stronger(flag: str, rival: dict[str, Any]) -> None:
    white = cell(moved(0.2))
    assert names(white, cell(moved(0.25, 1), **rival)) == [flag]
    assert names(white, cell(moved(0.21, 1), **rival)) == []
    assert names(white, cell(moved(0.15, 1), **rival)) == []
    one_image = moved(0.19, 1)
    one_image[0] += 2.4  # by 0.05 on average, but not clear of zero
    assert names(white, cell(one_image, **rival)) == []


@pytest.mark.parametrize("difference", [{"eps": 4 / 255}, {"objective": "raise"}, {"norm": "l2"}, {"queries": 100}])
def test_attacks_under_other_limits_or_after_something_else_are_not_compared(difference: dict[str, Any]) -> None:
    white = cell(moved(0.2))
    assert "black-box-wins" not in names(white, cell(moved(0.3, 1), "square", "score", **difference))


def test_a_control_or_an_ensemble_is_no_white_box_and_no_rival() -> None:
    black = cell(moved(0.3), "square", "score")
    assert names(black, cell(moved(0.35), "standard", ensemble=True)) == []
    assert "black-box-wins" not in names(cell(moved(0.2)), cell(moved(0.3), "random-noise", "none"))


def test_of_a_model_without_a_defense_oblivious_attacks_know_all_there_is_to_know() -> None:
    strong, weak = cell(moved(0.3), setting="oblivious", defense="none"), cell(moved(0.2), defense="none")
    assert names(strong, weak) == []
    assert names(strong, cell(moved(0.25), "square", "score", defense="none")) == []


def curve(*gains: float) -> dict[str, Any]:
    return {"forwards": [1, 2, 5, 10, 20, 42][-len(gains) :], "abs_gain": list(gains)}


def test_a_run_that_stops_early_is_flagged_only_where_another_gets_further() -> None:
    stuck, going = curve(0, 0.1, 0.199, 0.1995, 0.2), curve(0, 0.05, 0.1, 0.15, 0.2)
    further = cell(moved(0.3), "square", "score")
    assert "more-steps-no-help" in names(cell(moved(0.2), curve=stuck), further)
    assert "more-steps-no-help" not in names(cell(moved(0.2), curve=going), further)
    assert names(cell(moved(0.2), curve=stuck), cell(moved(0.2, 1), "square", "score")) == []


def test_a_longer_run_that_gains_nothing_is_flagged_only_where_another_gets_further() -> None:
    def run(steps: int, far: float, wobble: int = 0) -> FinishedCell:
        return cell(moved(far, wobble), f"pgd[steps={steps}]", parameters={"steps": steps, "step_size": 0.25})

    further = cell(moved(0.3, 2), "apgd")
    assert names(run(10, 0.2), run(40, 0.2), further) == ["more-steps-no-help"]
    assert names(run(10, 0.2), run(40, 0.2)) == []
    assert names(run(10, 0.2), run(40, 0.25), further) == []
    assert names(run(10, 0.2), run(15, 0.2), further) == []


def test_collapse_is_asked_of_large_sizes_in_linf() -> None:
    kept = CLEAN + AWAY * 0.01
    assert names(cell(kept, eps=16 / 255)) == ["no-collapse"]
    assert names(cell(kept, eps=8 / 255)) == []
    assert names(cell(kept, eps=1.0, norm="l2")) == []
    assert names(cell(1 - CLEAN, eps=16 / 255)) == []
    assert names(cell(np.full(COUNT, 0.5), eps=16 / 255)) == []
    flat = cell(kept, eps=4 / 255)
    assert names(flat, cell(kept, eps=8 / 255)) == ["no-collapse"], "twice the size, and no further"
    assert names(flat, cell(kept, eps=6 / 255)) == []
    assert names(flat, cell(CLEAN + AWAY * 0.06, eps=8 / 255)) == []


def test_noise_is_as_good_where_no_attack_is_clearly_better() -> None:
    noise = cell(moved(0.1, 3), "random-noise", "none")
    assert names(noise, cell(moved(0.1, 4))) == ["noise-as-good"]
    assert names(noise, cell(moved(0.05))) == ["noise-as-good"]
    assert names(noise, cell(moved(0.05)), cell(moved(0.2), "apgd")) == []
    assert names(noise) == []


def test_clean_qualities_out_of_range_and_attacked_ones_not() -> None:
    assert names(cell(moved(0.2) * 5)) == []
    assert names(cell(moved(0.2), clean=np.where(np.arange(COUNT) < 3, 1.2, CLEAN))) == ["out-of-range"]
    assert names(cell(moved(0.2), clean=np.where(np.arange(COUNT) < 2, 1.2, CLEAN))) == []
    assert names(cell(moved(0.2), clean=np.where(np.arange(COUNT) < 3, 1.05, CLEAN))) == []


def test_clean_qualities_that_differ_between_cells() -> None:
    again = CLEAN + 0.01
    assert names(cell(moved(0.2)), cell(moved(0.2), "fgsm", clean=again)) == ["undeclared-randomness"]
    drawn = [cell(moved(0.2), stochastic=True), cell(moved(0.2), "fgsm", clean=again, stochastic=True)]
    assert names(*drawn) == []


def test_a_flag_of_a_cell_is_kept_also_of_one_that_did_not_end_ok_but_not_of_a_control() -> None:
    assert names(cell(moved(0.2), flags=["zero-gradient"])) == ["zero-gradient"]
    missing = np.full(COUNT, np.nan)
    assert names(cell(missing, flags=["left-ball", "no such flag"], status="violation")) == ["left-ball"]
    assert names(cell(moved(0.2), "random-noise", "none", flags=["zero-gradient"])) == []
    assert names(cell(moved(0.2), setting="oblivious", flags=["zero-gradient"])) == [], "those of the undefended model"
    assert names(cell(moved(0.2), setting="oblivious", defense="none", flags=["zero-gradient"])) == ["zero-gradient"]


@pytest.mark.parametrize("kind", ["raise", "lower", "away", "reflect", "target"])
def test_what_is_left_to_an_attack_falls_as_it_gets_further(kind: str) -> None:
    towards = {"raise": 1.5, "lower": -0.5, "reflect": 1 - CLEAN, "target": 1.0, "away": np.where(CLEAN <= 0.5, 1.5, -0.5)}[
        kind
    ]
    left = [cell(CLEAN + share * (towards - CLEAN), objective=kind).remaining for share in (0.1, 0.5, 0.9)]
    assert (left[0] > left[1]).all()
    assert (left[1] > left[2]).all()


def test_images_without_labels_are_judged_by_their_clean_qualities() -> None:
    assert names(cell(CLEAN, eps=16 / 255, mos=np.full(COUNT, np.nan))) == ["no-collapse"]


# --- forward passes


def test_a_forward_pass_that_computes_gradients_is_noticed() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert optimises(Optimises(LinearModel()), images)
    for model in (LinearModel(), MeanModel(), StochasticModel()):
        assert not optimises(model, images)
    before = torch.get_rng_state()
    optimises(StochasticModel(), images)
    assert torch.equal(torch.get_rng_state(), before)


def test_scorings_differ_by_more_than_rounding() -> None:
    one = torch.tensor([0.1, 0.9])
    assert not differ([one, one + 1e-6, one])
    assert differ([one, one, one + torch.tensor([0, 1e-3])])
