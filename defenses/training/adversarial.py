"""`adversarial-training`: the label is kept while the picture is attacked (Madry et al., arXiv 1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses.base import TrainedDefense
from defenses.training.loop import inner_attack, regression
from models.base import QualityModel

INNER_STEPS = 2


@dataclass(frozen=True)
class AdversarialTraining(TrainedDefense):
    """Squared error on clean pictures plus λ times that on attacked ones; the inner attack is PGD on the squared error.

    Attributes:
        epsilon: the inner ball (ℓ∞), reached linearly over the first `ramp` of the training.
        ramp: that share.
        adversarial_weight: λ.
    """

    name: ClassVar[str] = "adversarial-training"
    paper: ClassVar[str] = "https://arxiv.org/abs/1706.06083"
    passes_an_image: ClassVar[int] = INNER_STEPS + 2  # inner steps, then clean and attacked

    epsilon: float = 2 / 255
    ramp: float = 0.3
    adversarial_weight: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= 1 and 0 < self.ramp <= 1 and self.adversarial_weight >= 0):
            raise ValueError(f"{self.name}: epsilon and ramp must be in (0, 1] and adversarial_weight not negative")

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        epsilon = self.epsilon * min(1.0, (progress + 0.01) / self.ramp)
        attacked = inner_attack(model, images, labels, epsilon, INNER_STEPS)
        errors = regression(model, torch.cat([images, attacked]), torch.cat([labels, labels]))
        clean, adversarial = errors.chunk(2)
        return clean.mean() + self.adversarial_weight * adversarial.mean()
