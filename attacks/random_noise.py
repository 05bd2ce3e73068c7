"""`random-noise`: a control, random noise of the same budget that an attack must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.descent import steepest
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat


@dataclass(frozen=True)
class RandomNoise(Attack):
    """Uniform noise that fills the ball (l2: a random direction scaled to its edge); makes no queries."""

    name: ClassVar[str] = "random-noise"
    access: ClassVar[Access] = "none"
    control: ClassVar[bool] = True

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 0

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        noise = generator.uniform(-1, 1, images.shape[1:]).to(images)
        shift = noise if threat.norm == "linf" else steepest(generator.normal(images.shape[1:]).to(images), "l2")
        return threat.snap(threat.project(images + threat.size * shift, images), images)
