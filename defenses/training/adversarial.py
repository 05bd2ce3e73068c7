"""`adversarial-training`: training on attacked images with their clean labels (Madry et al., arXiv 1706.06083)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.training.ball import INNER_STEPS, InsideABall
from iqarena.defenses.training.loop import inner_attack, regression
from iqarena.models.base import QualityModel


@dataclass(frozen=True)
class AdversarialTraining(InsideABall):
    """Squared error on clean images plus λ times that on attacked ones; the inner attack is PGD on the squared error.

    Attributes:
        adversarial_weight: λ.
    """

    name: ClassVar[str] = "adversarial-training"
    paper: ClassVar[str] = "https://arxiv.org/abs/1706.06083"
    passes_an_image: ClassVar[int] = INNER_STEPS + 2  # inner steps, then the clean and the attacked image

    adversarial_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_negative(adversarial_weight=self.adversarial_weight)

    def attacked_label(self, labels: torch.Tensor, attacked: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return the labels (N,) of attacked images; those of the clean ones unless overridden."""
        return labels

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        attacked = inner_attack(model, images, labels, self.ball(progress), INNER_STEPS)
        targets = torch.cat([labels, self.attacked_label(labels, attacked, images)])
        clean, adversarial = regression(model, torch.cat([images, attacked]), targets).chunk(2)
        return clean.mean() + self.adversarial_weight * adversarial.mean()
