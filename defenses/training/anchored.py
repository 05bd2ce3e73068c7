"""`anchored-training`: attacked images keep their rank among clean images (anchored adversarial training, BiRQA, 2026).

Only the abstract is available to us: clean images are anchors, and a ranking loss against them bounds the error of the score
of an attacked image. The rest is our interpretation: the anchors are the clean images of the batch; they are trained by
squared error, and the ranking loss has a gradient for the attacked images only. A score that is ordered correctly among
anchors with correct scores can be off by no more than the distance to the next anchor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.training.ball import INNER_STEPS, InsideABall
from iqarena.defenses.training.loop import inner_attack
from iqarena.models.base import QualityModel


def ranking_loss(
    attacked: torch.Tensor, anchors: torch.Tensor, labels: torch.Tensor, anchor_labels: torch.Tensor, margin: float
) -> torch.Tensor:
    """Compute the mean over pairs of relu(min(μ, |y_i − y_j|) − sign(y_i − y_j)·(a_i − c_j)); 0 for pairs of equal labels.

    Args:
        attacked, labels: scores a and labels of attacked images, (N,).
        anchors, anchor_labels: scores c and labels of clean images, (M,).
        margin: μ, the required distance, limited to the distance of the labels.
    """
    apart = labels[:, None] - anchor_labels[None, :]
    order = apart.sign()
    missing = torch.relu(apart.abs().clamp(max=margin) - order * (attacked[:, None] - anchors[None, :]))
    return (missing * order.abs()).mean()


@dataclass(frozen=True)
class AnchoredTraining(InsideABall):
    """Squared error on clean images plus λ times a ranking loss of attacked images against the clean images of the batch.

    The inner attack is PGD on the squared error, as in `adversarial-training`.

    Attributes:
        ranking_weight: λ.
        margin: margin of the ranking loss, in units of quality.
    """

    name: ClassVar[str] = "anchored-training"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.20351 (our reading of the abstract)"
    passes_an_image: ClassVar[int] = INNER_STEPS + 2  # inner steps, then the clean and the attacked image

    ranking_weight: float = 1.0
    margin: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_negative(ranking_weight=self.ranking_weight, margin=self.margin)

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        attacked = inner_attack(model, images, labels, self.ball(progress), INNER_STEPS)
        clean, adversarial = model.quality(torch.cat([images, attacked])).float().chunk(2)
        ranking = ranking_loss(adversarial, clean.detach(), labels, labels, self.margin)
        return (clean - labels).square().mean() + self.ranking_weight * ranking
