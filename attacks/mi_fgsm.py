"""`mi-fgsm`: momentum iterative FGSM (Dong et al., CVPR 2018, arXiv 1710.06081)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.descent import GradientDescent, Memory, steepest
from iqarena.attacks.threat import Norm, Threat


@dataclass(frozen=True)
class MIFGSM(GradientDescent):
    """`i-fgsm` along a momentum of normalised gradients, v ← decay·v + ∇/mean|∇| (l2: ∇/‖∇‖₂).

    Attributes:
        decay: fraction of the momentum that is kept at each step, at least 0; 0 is `i-fgsm`.
    """

    name: ClassVar[str] = "mi-fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/1710.06081"

    random_start: bool = False
    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decay >= 0:
            raise ValueError(f"{self.name}: decay must be at least 0")

    def scaled(self, gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
        """Scale a gradient before it is added to the momentum."""
        if norm == "linf":
            return gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-20)
        return steepest(gradient, norm)

    def direction(self, gradient: torch.Tensor, threat: Threat, memory: Memory) -> torch.Tensor:
        velocity = self.scaled(gradient, threat.norm)
        if "velocity" in memory:
            velocity = velocity + self.decay * memory["velocity"]
        memory["velocity"] = velocity
        return velocity
