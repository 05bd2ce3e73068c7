"""Helpers that run an attack on a few images, for the tests of attacks."""

from __future__ import annotations

import math

import pytest
import torch

from iqarena.attacks.base import Attack, Generators
from iqarena.attacks.fitted import Fit, FittedAttack
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Norm, Threat
from iqarena.attacks.whole_set import SetAttack
from iqarena.bench.evaluation.judge import Stored, quantize
from iqarena.bench.inference.target import Target, frozen
from iqarena.models.base import QualityModel
from tests.support.analytic_models import LinearModel

SMALL_THREATS: dict[Norm, Threat] = {
    "linf": Threat("linf", 2 / 255),
    "l2": Threat("l2", 0.5),
    "l0": Threat("l0", 0.05),
    "patch": Threat("patch", 0.1),
    "ssim": Threat("ssim", 0.02),
}
"""A threat model of each norm, for images of a few hundred pixels."""


SEARCHES = {
    "torchattacks:Square": "[n_queries=50]", "torchattacks:SPSA": "[nb_iter=2,nb_sample=16]",
    "torchattacks:OnePixel": "[steps=3]", "torchattacks:Pixle": "[max_iterations=3]", "art:SquareAttack": "[max_iter=20]",
    "art:SimBA": "[max_iter=40]", "art:HopSkipJump": "[max_iter=1]", "art:BoundaryAttack": "[max_iter=3]",
    "art:SignOPTAttack": "[query_limit=200]",
}  # fmt: skip
"""Searches of other libraries, with budgets that suffice for tests of their conduct."""


def random_pixels(
    count: int, height: int = 16, width: int = 16, seed: int = 0, low: int = 0, high: int = 256
) -> torch.Tensor:
    """Return images (count, 3, height, width) uint8, uniform in [low, high)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def craft(
    attack: Attack, model: QualityModel, clean: torch.Tensor, kind: Kind, threat: Threat, seeds: list[int] | None = None
) -> tuple[torch.Tensor, Stored, Target]:
    """Run an attack on images (N, 3, H, W) uint8 as the evaluator does; return its output, the stored images and the target.

    A fitted attack is fitted on eight random images of the same size; a set-level attack takes `clean` as its set.
    """
    images = clean.float() / 255
    with frozen(model):
        target = Target(model, len(clean), attack.access, queries=threat.queries)
        quality = torch.full((len(clean),), math.nan) if attack.access == "none" else target.quality(images)
        objective = Objective(kind, quality)
        generators = Generators(seeds or list(range(len(clean))))
        if isinstance(attack, FittedAttack):
            fit = fitted(attack, model, clean, kind, threat)
            attacked = attack.run(target, images, objective, threat, generators, fit=fit)
        else:
            if isinstance(attack, SetAttack):
                seen = attack.look(target, images, objective, threat, generators)
                aims = attack.decide(quality, seen, torch.Generator().manual_seed(0))
                objective = Objective("target", quality, value=aims)
            attacked = attack.run(target, images, objective, threat, generators)
    assert torch.equal(images, clean.float() / 255), "an attack must not write into the images that it gets"
    assert not images.requires_grad
    return attacked, quantize(attacked, clean, threat), target


def moved_by_sign(clean: torch.Tensor, model: LinearModel, levels: float | torch.Tensor) -> torch.Tensor:
    """Return clip(x + levels·sign(w)) as uint8; `levels` is a number or one number an image."""
    steps = torch.as_tensor(levels).view(-1, 1, 1, 1) * model.weight.detach().sign()
    return (clean.float() + steps).clamp(0, 255).to(torch.uint8)


def one_by_one(attack: Attack, model: QualityModel, clean: torch.Tensor, kind: Kind, threat: Threat) -> torch.Tensor:
    """Run an attack image by image, as the evaluator does for an attack that takes no batches."""
    return torch.cat([craft(attack, model, clean[i : i + 1], kind, threat, [i])[1].pixels for i in range(len(clean))])


def fitted(attack: FittedAttack, model: QualityModel, clean: torch.Tensor, kind: Kind, threat: Threat) -> Fit:
    """Fit an attack on eight random images of the size of `clean`."""
    images = random_pixels(8, *clean.shape[2:], seed=99).float() / 255
    target = Target(model, len(images), attack.access)
    objective = Objective(kind, target.quality(images))
    return attack.fit(target, images, objective, threat, Generators([0]))


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    """Return the message of an error, which has one line."""
    assert "\n" not in str(error.value)
    return str(error.value)
