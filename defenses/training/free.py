"""`free-training`: one backward pass for both the weights and the inner attack (Shafahi et al., NeurIPS 2019).

Each batch is replayed: every replay trains the weights on the current attacked images, and the gradient with respect to the
images, which the same backward pass gives, moves them by a sign step of ε. In the paper, the perturbation of a batch starts
from that of the previous batch; here it starts at random inside the ball, so that batches do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.training.ball import InsideABall
from iqarena.defenses.training.loop import regression
from iqarena.models.base import QualityModel

REPLAYS = 4
"""m of the paper, 8 for CIFAR and 4 for ImageNet; with 4, a batch costs the same as for `adversarial-training`."""


@dataclass(frozen=True)
class FreeTraining(InsideABall):
    """Squared error on attacked images only, with four replays per batch."""

    name: ClassVar[str] = "free-training"
    paper: ClassVar[str] = "https://arxiv.org/abs/1904.12843"
    passes_an_image: ClassVar[int] = REPLAYS

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        """Compute the loss of one replay."""
        return regression(model, images, labels).mean()

    def losses(
        self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float
    ) -> Iterator[torch.Tensor]:
        epsilon = self.ball(progress)
        shift = torch.empty_like(images).uniform_(-epsilon, epsilon)
        for _ in range(REPLAYS):
            moved = (images + shift).clamp(0, 1).requires_grad_()
            yield self.loss(model, moved, labels, progress)
            assert moved.grad is not None  # left by the loop's backward pass for the weights
            shift = (shift + epsilon * moved.grad.sign()).clamp(-epsilon, epsilon)
