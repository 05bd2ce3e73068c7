"""The Python API: it takes any module, leaves it unchanged, and never confuses two models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from iqarena import evaluate
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import UserError
from iqarena.bench.results.columns import SUMMARY_COLUMNS
from tests.support.analytic_models import LinearModel


def test_evaluate_takes_any_module(small: ImageDataset) -> None:
    class Column(torch.nn.Module):
        """A module with scores from 0 to 100, lower is better, of shape (N, 1)."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 100 * (1 - images.mean(dim=(1, 2, 3)))[:, None]

    report = evaluate(
        Column(), ["pgd"], small, objectives=["raise"], score_range=(0, 100), higher_is_better=False, limit=None
    )
    assert list(report.columns) == SUMMARY_COLUMNS
    # the mean of all pixels can rise by ε and no more
    assert report.abs_gain[0] == pytest.approx(2 / 255, rel=1e-3)
    assert report.srocc_clean[0] == pytest.approx(1.0)


def test_evaluate_says_why_nothing_could_be_run(small: ImageDataset) -> None:
    with pytest.raises(UserError, match="resnet-iqa needs 64×64"):
        evaluate("resnet-iqa", ["pgd"], small)


def test_evaluate_leaves_the_model_as_it_was(small: ImageDataset) -> None:
    model = LinearModel().train()
    weight = model.weight.detach().clone()
    evaluate(model, ["pgd", "art:ProjectedGradientDescent[max_iter=2]"], small, limit=2)
    assert model.training
    assert model.weight.grad is None
    assert model.weight.requires_grad
    assert torch.equal(model.weight, weight)


def test_evaluate_does_not_take_one_models_results_for_anothers(small: ImageDataset, tmp_path: Path) -> None:
    def shift(model: torch.nn.Module, **facts: Any) -> float:
        return float(evaluate(model, ["fgsm"], small, objectives=["raise"], out=tmp_path, limit=None, **facts).abs_gain[0])

    model = LinearModel(reach=10)
    first = shift(model)
    with torch.no_grad():
        model.weight.mul_(0.5)
    assert shift(model) == pytest.approx(first / 2, rel=1e-3)
    assert model.info.weights_sha256 == ""

    class Half(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(1, 2, 3))

    assert shift(Half(), score_range=(0, 2)) == pytest.approx(shift(Half()) / 2, rel=1e-3)
