"""`random-sign`: the control at the corners of the ball, where sign attacks end, without their direction."""

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
    """±ε at random (l2: values changed alike, to the ball's edge); asks the model nothing.

    For l2, ε√(1/n) is seldom a whole level, and a share of the n values, at random, gets one level more than the others.
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
