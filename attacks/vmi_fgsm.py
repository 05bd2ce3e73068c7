"""`vmi-fgsm`: variance tuning of momentum iterative FGSM (Wang, He, CVPR 2021, arXiv 2103.15571)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.descent import Memory, noise
from iqarena.attacks.mi_fgsm import MIFGSM
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat


@dataclass(frozen=True)
class VMIFGSM(MIFGSM):
    """`mi-fgsm` with variance-tuned gradients, ∇ₜ + (mean of ∇ over neighbours of xₜ₋₁) − ∇ₜ₋₁.

    Attributes:
        decay: fraction of the momentum that is kept at each step, at least 0.
        samples: neighbours per step; each costs a forward and a backward pass.
        beta: radius of the neighbourhood, in units of the threat's size; neighbours may leave the ball, as they are only
            queried.
    """

    name: ClassVar[str] = "vmi-fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2103.15571"

    samples: int = 5
    beta: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1 or not self.beta > 0:
            raise ValueError(f"{self.name}: samples must be at least 1 and beta above 0")

    @property
    def between(self) -> int:
        return self.samples

    def ask(
        self,
        target: Target,
        stored: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
        memory: Memory,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tuning = torch.zeros_like(stored)
        if "stored" in memory:
            for _ in range(self.samples):
                around = noise(stored, threat.norm, generator).mul_(self.beta * threat.size).add_(memory["stored"])
                tuning += target.quality_and_grad(around.clamp_(0, 1), objective.loss)[1]
            tuning = tuning / self.samples - memory["gradient"]
        quality, gradient = super().ask(target, stored, objective, threat, generator, memory)
        memory |= {"stored": stored, "gradient": gradient}
        return quality, gradient + tuning
