"""`my-idea` fulfils the contract of attacks and finds the best attack on a linear model."""

from __future__ import annotations

import torch

from iqarena.attacks.threat import Threat
from iqarena.bench.checks import LinearToy, check_attack, run_on_toy_model
from iqarena.bench.cli.new.attack import MyIdea


def test_my_idea_fulfils_the_contract() -> None:
    assert [finding for finding in check_attack(MyIdea()) if not finding.ok] == []


def test_my_idea_finds_the_best_attack_on_a_linear_model() -> None:
    clean = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model, radius = LinearToy(), 2 / 255
    toy_run = run_on_toy_model(MyIdea(), clean, "lower", Threat("linf", radius), model=model)
    assert toy_run.losses is not None
    before, after = toy_run.losses
    # clip(x − r·sign(w)) is the best attack; where pixels are at the end of their range it gains less than r·Σ|w|
    best = (clean.float() / 255 - radius * model.weights(16, 16).sign()).clamp(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(after, model.quality(best), atol=1e-5, rtol=0)  # float32 sums of 768 products
    assert (after < before).all()
