"""Model checks: sound models pass them, and each planted fault is found by its check, most of them by no other."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from iqarena.bench.cells import expand
from iqarena.bench.checks.run import check
from iqarena.bench.cli.app import app
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.inference.finding import for_record
from iqarena.bench.inference.model_checks import natural, probe, probed
from iqarena.bench.suite import validated
from iqarena.models.base import ModelInfo, QualityModel
from tests.support.analytic_models import MeanModel


class Sharpness(QualityModel):
    """A sound model: a smooth score around ½ that falls with noise and blur, from two smooth convolutions."""

    info = ModelInfo("sharpness", score_range=(0.2, 0.8), min_size=8)

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.tensor([0.3, 0.5, 0.2]))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        gray = (images * self.mix.view(1, 3, 1, 1)).sum(1)
        fine = gray[:, 1:, 1:] - gray[:, :-1, :-1]
        coarse = gray[:, 8:, 8:] - gray[:, :-8, :-8] if min(gray.shape[1:]) > 8 else fine
        share = (fine**2).mean(dim=(1, 2)) / ((coarse**2).mean(dim=(1, 2)) + 1e-3)
        return torch.exp(-((share - 0.25) ** 2) / 0.02)


def without(model: QualityModel, **facts: object) -> QualityModel:
    """Return the model with other facts in its `info`."""
    model.info = replace(model.info, **facts)  # type: ignore[arg-type]
    return model


class Faulty(Sharpness):
    """A sound model with a changed score."""

    def spoil(self, images: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.spoil(images, super().forward(images))


def faulty(spoil, **facts):
    return without(type("Planted", (Faulty,), {"spoil": spoil})(), **facts)


class NoPixels(Sharpness):
    """A model with a gradient to its weights and none to the pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.detach())


class TwoQuarters(Sharpness):
    """A model whose gradient ignores half of the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = images.shape[2] // 2
        return super().forward(torch.cat([images[:, :, :half], images[:, :, half:].detach()], dim=2))


class OtherSlope(torch.autograd.Function):
    """The identity with a wrong backward pass."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(3) * 3


class Crooked(Sharpness):
    """A model whose gradient is that of another function."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(OtherSlope.apply(images))


class FlatIsNothing(Sharpness):
    """A model that computes 0 / 0 on flat images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        contrast = images.flatten(1).var(dim=1)
        return super().forward(images) * contrast / contrast


class FlatRoot(Sharpness):
    """A model with finite scores and a non-finite gradient on flat images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + 1e-3 * images.flatten(1).var(dim=1).sqrt()


class Writes(Sharpness):
    """A model that writes into the images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = super().forward(images.clone())
        if not images.requires_grad:
            images.mul_(0.5)
        return scores


class Learns(Sharpness):
    """A model that updates an unused running state."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return super().forward(images)


class Trains(Sharpness):
    """A model that puts a part of itself in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Dropout(0.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.norm.train()
        return super().forward(images)


class Seeds(Sharpness):
    """A model that sets the global seed."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return super().forward(images)


class DrawsWithNumpy(Sharpness):
    """A model that draws from a stream that the harness does not seed."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        np.random.rand()
        random.random()
        return super().forward(images)


class Raises(Sharpness):
    """A model that fails on every natural image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no\nsuch   layer")


def test_a_sound_model_passes_every_check():
    findings = probe(Sharpness())
    assert len(findings) == 15
    assert [finding.name for finding in findings if not finding.ok] == [], for_record(findings)["measured"]


FAULTS = [
    ("shape", lambda: faulty(lambda self, images, scores: scores[:, None])),
    ("dtype and device", lambda: faulty(lambda self, images, scores: scores.double())),
    ("finite", lambda: faulty(lambda self, images, scores: scores / (images.flatten(1).std(dim=1) > 0.2).float())),
    ("flat images", FlatIsNothing),
    ("flat images", FlatRoot),
    ("range", lambda: without(Sharpness(), score_range=(0.0, 100.0))),
    ("range", lambda: without(Sharpness(), score_range=(5.0, 6.0))),
    ("direction", lambda: without(Sharpness(), higher_is_better=False)),
    ("gradient", NoPixels),
    ("gradient", lambda: faulty(lambda self, images, scores: scores.detach())),
    ("gradient", TwoQuarters),
    ("slope", Crooked),
    ("eval mode", Trains),
    ("batch", lambda: faulty(lambda self, images, scores: scores + 0.1 * scores.mean())),
    ("repeats", lambda: faulty(lambda self, images, scores: scores + 0.01 * torch.randn(len(scores)))),
    ("repeats", lambda: without(Sharpness(), stochastic=True)),
    ("input", Writes),
    ("weights", Learns),
    ("random state", Seeds),
    ("random state", DrawsWithNumpy),
    ("runs", Raises),
]


@pytest.mark.parametrize(("name", "cls"), FAULTS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(FAULTS)])
def test_a_planted_fault_is_found(name, cls):
    findings = {finding.name: finding for finding in probe(cls())}
    assert not findings[name].ok, findings[name].measured
    assert findings[name].advice
    assert "\n" not in findings[name].measured


# some faults must show in another check as well: random scores also differ from one batch to the next
ALONE = {"direction", "input", "weights", "eval mode", "random state", "slope", "dtype and device"}


@pytest.mark.parametrize(("name", "cls"), [fault for fault in FAULTS if fault[0] in ALONE])
def test_and_by_no_other_check(name, cls):
    assert [finding.name for finding in probe(cls()) if not finding.ok] == [name]


def test_every_check_has_a_planted_fault():
    assert {finding.name for finding in probe(Sharpness())} == {name for name, _ in FAULTS}


def test_a_model_that_draws_and_says_so_passes():
    noisy = faulty(lambda self, images, scores: scores + 0.01 * torch.randn(len(scores)), stochastic=True)
    assert [f.name for f in probe(noisy) if not f.ok] == []


def test_scores_only_is_no_fault_where_the_model_says_so():
    findings = {f.name: f for f in probe(without(NoPixels(), differentiable=False))}
    assert findings["gradient"].ok
    assert findings["slope"].ok


def test_the_probe_leaves_model_and_random_streams_as_they_were():
    model = Sharpness().train()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = (torch.rand(()), np.random.rand(), random.random())
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    probe(model)
    assert (torch.rand(()), np.random.rand(), random.random()) == expected
    assert model.training
    assert model.mix.requires_grad
    assert model.mix.grad is None


def test_natural_images_are_of_the_asked_size_and_get_worse():
    images = natural(40, 56)
    assert images.shape == (12, 3, 40, 56)
    distances = (images[3:] - images[:3].repeat(3, 1, 1, 1)).flatten(1).norm(dim=1)
    assert (distances > 1).all()


# --- where the findings are shown


@pytest.mark.parametrize("name", ["resnet-iqa", "cnniqa", "niqe"])
def test_shipped_models_pass(name):
    (report,) = check(name)
    assert report.ok, [finding for finding in report.findings if not finding.ok]


def test_check_speaks_plainly_and_in_json(tmp_path: Path):
    good = CliRunner().invoke(app, ["check", "resnet-iqa"])
    assert good.exit_code == 0
    assert "model resnet-iqa: all is well" in good.stdout
    assert "direction" in good.stdout
    file = tmp_path / "bad.py"
    file.write_text(
        "from iqarena.models.base import ModelInfo, QualityModel\n"
        "class Bad(QualityModel):\n"
        "    info = ModelInfo('bad', min_size=1)\n"
        "    def forward(self, images):\n"
        "        return images.detach().mean(dim=(1, 2, 3))\n"
    )
    bad = CliRunner().invoke(app, ["check", str(file)])
    assert bad.exit_code == 1
    assert "FAILED" in bad.stdout
    assert "what to do" in bad.stdout
    report = json.loads(CliRunner().invoke(app, ["check", str(file), "--json"]).stdout)
    assert report[0]["ok"] is False
    assert report[0]["kind"] == "model"
    failed = [finding["name"] for finding in report[0]["findings"] if not finding["ok"]]
    assert "gradient" in failed


def test_check_of_nothing_is_one_line():
    with pytest.raises(UserError, match="nothing is called 'resnet-iqaa'; did you mean resnet-iqa"):
        check("resnet-iqaa")


def test_findings_are_in_the_record():
    evaluator = Evaluator(Demo(), 4, 4, {"mean": MeanModel()})
    suite = validated({"models": ["mean"], "attacks": [{"attack": "random-noise"}], "limit": 4})
    cell = expand(suite)[0]
    record, _ = evaluator.run(cell, evaluator.ids.cell_id(cell))
    kept = record["model"]["probe"]
    assert set(kept) == {"failed", "measured"}
    assert "gradient" in kept["measured"]
    json.dumps(kept)


def test_a_model_is_probed_once(monkeypatch):
    asked = []
    monkeypatch.setattr("iqarena.bench.inference.model_checks.probe", lambda model: asked.append(model) or [])
    monkeypatch.setattr("iqarena.bench.inference.model_checks._probed", {})
    model, same, other = Sharpness(), Sharpness(), Sharpness()
    with torch.no_grad():
        other.mix += 0.1
    for one in (model, model, same, other):
        probed(one)
    assert asked == [model, other]
