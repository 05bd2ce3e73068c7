"""`random-sign`: a control at the corners of the ball, where sign attacks end, but with random signs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat


@dataclass(frozen=True)
class RandomSign(Attack):
    """Random ±ε (l2: changes of equal magnitude up to the edge of the ball); makes no queries.

    For l2, ε√(1/n) is rarely a whole level, so a random fraction of the n values gets one level more than the others.
    """

    name: ClassVar[str] = "random-sign"
    access: ClassVar[Access] = "none"
    control: ClassVar[bool] = True

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 0

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        shift = threat.size * generator.signs(images.shape[1:]).to(images)
        if threat.norm == "l2":
            values, budget = images[0].numel(), (threat.size * 255) ** 2
            least = math.isqrt(math.floor(budget / values))
            more = min(math.floor((budget - values * least**2) / (2 * least + 1)), values)
            order = generator.uniform(0, 1, (values,)).argsort(dim=1).argsort(dim=1).view(images.shape).to(images)
            shift = shift.sign() * (least + (order < more).to(images)) / 255
        return threat.snap(threat.project(images + shift, images), images)
