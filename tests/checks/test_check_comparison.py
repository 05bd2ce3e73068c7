"""`iqarena check`: the comparison with other plugins, and models that raise in it."""

from __future__ import annotations

import pytest
import torch

from iqarena.bench.checks.comparison import compare_attack, compare_defense
from iqarena.bench.registry import DEFENSES, MODELS, Entry
from iqarena.models.base import ModelInfo, QualityModel
from tests.support.checked_plugins import Fine, Wrapped


class Raising(QualityModel):
    """A model that raises the error of its class after a number of calls."""

    info = ModelInfo("sick", min_size=1)
    error: Exception = RuntimeError("no\nway")
    calls_allowed = 0

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        if self.calls > self.calls_allowed:
            raise self.error
        return self.scale * images.mean(dim=(1, 2, 3))


class Spoilt(Fine):
    """A defense whose model raises."""

    name = "spoilt"

    def protect(self, model):
        return Wrapped(model, lambda scores, images: 1 / 0)


@pytest.mark.parametrize(
    ("error", "message"),
    [(RuntimeError("no\nway"), "sick: RuntimeError: no way"), (MemoryError("9 GiB"), "9 GiB"), (SystemExit("bye"), "bye")],
)
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_model_that_raises_in_the_comparison_is_a_reason(monkeypatch, error, message, calls) -> None:
    """The model raises on clean images, on attacked ones or in between."""
    monkeypatch.setitem(MODELS.entries, "sick", Entry("sick", Raising))
    monkeypatch.setattr(Raising, "error", error)
    monkeypatch.setattr(Raising, "calls_allowed", calls)
    rows, (finding,) = compare_attack("fgsm", ["sick"], 2, ())
    assert (rows, finding.ok) == ([], False)
    assert message in finding.measured
    assert "\n" not in finding.measured


def test_a_model_that_raises_takes_no_other_out_of_the_comparison(monkeypatch) -> None:
    monkeypatch.setitem(MODELS.entries, "sick", Entry("sick", Raising))
    rows, (finding,) = compare_attack("fgsm", ["sick", "cnniqa"], 2, ())
    assert [row["model"] for row in rows] == ["cnniqa"] * 2
    assert finding.ok


def test_a_defense_that_raises_in_the_comparison_is_a_reason(monkeypatch) -> None:
    monkeypatch.setitem(DEFENSES.entries, "spoilt", Entry("spoilt", Spoilt))
    rows, (finding,) = compare_defense("spoilt", ["cnniqa"], 4)
    assert (rows, finding.ok) == ([], False)
    assert finding.measured == "shift cnniqa: ZeroDivisionError: division by zero"
