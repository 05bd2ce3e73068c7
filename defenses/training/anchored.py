"""`anchored-training`: attacked images keep their place among clean ones (anchored adversarial training, BiRQA, 2026).

Public to us is what its abstract says: clean images are anchors, and a ranking loss against them bounds the error of an
attacked image's score. The rest is our reading: anchors are the other clean images of the batch; they are learnt by
squared error, and the ranking loss moves the attacked images only. What is ordered rightly among anchors whose scores
are right can be no further off than the next anchor.
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
    """Mean over pairs of relu(min(μ, |y_i − y_j|) − sign(y_i − y_j)·(a_i − c_j)); pairs of equal labels count as 0.

    Args:
        attacked, labels: scores a and labels of attacked images, (N,).
        anchors, anchor_labels: scores c and labels of clean ones, (M,).
        margin: μ, the least distance wanted; never more than the labels are apart.
    """
    apart = labels[:, None] - anchor_labels[None, :]
    order = apart.sign()
    missing = torch.relu(apart.abs().clamp(max=margin) - order * (attacked[:, None] - anchors[None, :]))
    return (missing * order.abs()).mean()


@dataclass(frozen=True)
class AnchoredTraining(InsideABall):
    """Squared error on clean images plus λ times a ranking loss of attacked images against the clean ones of the batch.

    The inner attack is PGD on the squared error, as in `adversarial-training`.

    Attributes:
        ranking_weight: λ.
        margin: by which the right order must be kept, in quality.
    """

    name: ClassVar[str] = "anchored-training"
    paper: ClassVar[str] = "https://arxiv.org/abs/2602.20351 (our reading of the abstract)"
    passes_an_image: ClassVar[int] = INNER_STEPS + 2  # inner steps, then clean and attacked

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
