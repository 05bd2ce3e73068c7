"""The figures of `tests.speed`: their tables, their limits, and a cheap round of some."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from iqarena.bench.cells import expand
from iqarena.bench.checks import LinearToy
from iqarena.bench.errors import UserError
from iqarena.bench.inference.target import frozen
from iqarena.bench.suite import validated
from tests.speed import attacks, cells, page
from tests.speed.full import Workload, usual_passes
from tests.speed.rows import Row, in_turns, ratio

PLACES = ("pgd", "libraries", "cells", "workers", "growth", "faults")


def test_a_limit_is_met_or_not() -> None:
    assert [Row("g", "n", value, wanted="≤ 1.03").met for value in (1.0, 1.03, 1.04)] == [True, True, False]
    assert [Row("g", "n", value, wanted="≥ 1.5").met for value in (1.4, 1.5)] == [False, True]
    assert Row("g", "n", 1.0).met is None


def test_jobs_are_run_by_turns_and_the_first_turn_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("tests.speed.rows.time.process_time", lambda: float(next(clock)))
    order: list[str] = []
    taken = in_turns([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert order == list("abababab")
    assert taken == [[1.0] * 3, [1.0] * 3]
    assert ratio([2.0, 3.0, 8.0], [1.0, 1.0, 2.0]) == (3.0, (2.0, 4.0))


def test_a_table_goes_into_its_place_and_nowhere_else() -> None:
    rows = [Row("cells", "a cell", 12.3456, "ms", "≤ 20", (11.0, 240.0), "words"), Row("cells", "more", 1.0, wanted="≤ 0.5")]
    text = page.table(rows, "command", 5)
    assert "| a cell | 12.3 ms | 11 – 240 | ≤ 20 ✓ | words |" in text
    assert "| more | 1 × |  | ≤ 0.5 **missed** |  |" in text
    before = "a <!-- x -->old<!-- /x --> b <!-- y -->stays<!-- /y -->"
    assert page.with_section(before, "x", r"new \1") == "a <!-- x -->\nnew \\1\n<!-- /x --> b <!-- y -->stays<!-- /y -->"
    with pytest.raises(UserError, match="no single place"):
        page.with_section(before, "z", "new")


def test_the_page_has_a_place_for_every_table() -> None:
    text = page.PATH.read_text(encoding="utf-8")
    assert [text.count(f"<!-- {name} -->") for name in PLACES] == [1] * len(PLACES)


def test_the_bare_loop_and_the_harness_attack_alike() -> None:
    """On a linear model both reach the corner of the ball, the harness on the grid of 8-bit values."""
    images = torch.full((2, 3, 16, 16), 128 / 255)
    model = LinearToy()
    with frozen(model):
        attacked_images = [attacks.bare_loop(model, images), attacks.harness(model, images)]
    best = images + attacks.EPS * torch.sign(model.weights(16, 16))
    for attacked in attacked_images:
        torch.testing.assert_close(attacked, best, atol=1e-6, rtol=0)  # ε is a whole number of levels


def test_the_overhead_is_measured_on_cells_that_end_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "CELLS", 2)
    first = next(iter(cells.overhead_rows(1)))
    assert first.unit == "ms"
    assert first.value > 0


def test_the_arithmetic_of_a_whole_evaluation_is_what_the_plan_says() -> None:
    suite = validated(
        {"models": ["cnniqa", "resnet-iqa"], "defenses": ["none", "jpeg", "flip"], "attacks": ["fgsm", "pgd", "square"]}
    )
    plan = expand(suite)
    whole = Workload(1, 2, 3, 3, 10, forwards=4, backwards=3)
    assert whole.cells == len(plan)
    assert whole.craftings == len({cell.crafting for cell in plan})
    # 18 sets × 10 images × 4 and 3; 36 cells and 6 clean sets × 10 images to score
    assert whole.seconds(1.0, 0.5) == 720 + 420 + 0.5 * 540
    forwards, backwards, known = usual_passes()
    assert forwards >= backwards > 0
    assert known > 20
