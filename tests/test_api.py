"""The Python API: it takes any module, leaves it unchanged, and never confuses two models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iqarena import evaluate
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.content import content
from iqarena.bench.results.columns import SUMMARY_COLUMNS
from iqarena.bench.results.store import Records
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


class Scaled(torch.nn.Module):
    """Mean detail times a weight."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.5 + self.gain * (images.mean((1, 2, 3)) - 0.5)


def test_two_models_of_one_class_have_a_row_each(small: ImageDataset, tmp_path: Path) -> None:
    reports = [evaluate(Scaled(gain), "fgsm", small, limit=None, out=tmp_path) for gain in (1.0, -1.0, 1.0)]
    names = [report.model[0] for report in reports]
    assert names[0] == names[2] == "Scaled"
    assert re.fullmatch(r"Scaled@[0-9a-f]{8}", names[1])
    assert [report.srocc_clean[0] for report in reports] == pytest.approx([1.0, -1.0, 1.0])
    (board,) = content(Records(tmp_path)).boards
    assert {row.model: row.clean[0] for row in board.rows} == pytest.approx({"Scaled": 1.0, names[1]: -1.0})


def test_a_name_is_the_rows_and_never_two_models(small: ImageDataset, tmp_path: Path) -> None:
    assert evaluate(Scaled(1.0), "fgsm", small, limit=None, out=tmp_path, name="mine").model[0] == "mine"
    with pytest.raises(UserError, match="'mine' is another model in these results; choose another name"):
        evaluate(Scaled(2.0), "fgsm", small, limit=None, out=tmp_path, name="mine")
    with pytest.raises(UserError, match="name is for a model of your own"):
        evaluate("cnniqa", "fgsm", small, name="mine")


class Largest(torch.nn.Module):
    """A score that is a share of the largest in the batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = images.mean((1, 2, 3))
        return scores / scores.max()


def test_a_model_whose_scores_depend_on_the_batch_is_flagged_and_asked_one_by_one(small: ImageDataset) -> None:
    report = evaluate(Largest(), "fgsm", small, limit=None)
    assert "depends-on-batch" in report.rows["flags"][0]  # alone, every score is 1, so its gradient is zero
    assert report.images.clean_quality.tolist() == [1.0] * len(report.images)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"score_range": (100, 0)}, "finite low < high, not \\(100, 0\\); .* higher_is_better=False"),
        ({"score_range": (0, float("inf"))}, "finite low < high"),
        ({"score_range": None}, "two numbers"),
        ({"score_range": "01"}, "two numbers"),
        ({"higher_is_better": "no"}, "higher_is_better must be True or False"),
        ({"eps": None}, "eps must be a number, not None"),
        ({"attacks": 3}, "attacks must be a name or a list of names"),
        ({"seed": 2**70}, "seed"),
        ({"dataset": None}, "dataset"),
        ({"model": Scaled}, "model is the class Scaled; give an object of it"),
        ({"model": 3}, "a registry name or an nn.Module, not int"),
        ({"name": " "}, "name must not be empty"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(small: ImageDataset, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        evaluate(**({"model": Scaled(1.0), "attacks": "fgsm", "dataset": small} | arguments))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("eps", [np.float32(2 / 255), torch.tensor(2 / 255), [2 / 255], "2/255"])
def test_a_size_may_be_a_scalar_of_another_library(small: ImageDataset, eps: Any) -> None:
    report = evaluate(Scaled(1.0), "fgsm", small, limit=2, eps=eps, score_range=np.array([0.0, 1.0]))
    assert report.linf_max[0] == pytest.approx(2 / 255)


@pytest.mark.parametrize("shown", [True, False, None])
def test_progress_is_shown_where_it_is_wanted(
    small: ImageDataset, capsys: pytest.CaptureFixture[str], shown: bool | None
) -> None:
    evaluate(Scaled(1.0), "fgsm", small, limit=2, progress=shown)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("1/1" in err) == bool(shown)


def test_a_size_between_two_levels_is_said_and_a_name_may_look_like_a_spec(small: ImageDataset) -> None:
    with pytest.warns(UserWarning, match="of which 1 can be used: write 1/255 or 2/255"):
        report = evaluate(Scaled(1.0), "fgsm", small, limit=2, eps=0.00784, name=" mine[size=1, seed=2] ")
    assert list(report.status) == ["ok"]
    assert report.linf_max[0] == pytest.approx(1 / 255)
