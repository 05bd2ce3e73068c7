"""`free-training`: one backward pass serves both the weights and the inner attacker (Shafahi et al., NeurIPS 2019).

Each batch is replayed: every replay trains the weights on the images as they are moved so far, and the gradient by the
images, which comes with it, moves them by a sign step of ε. The paper starts a batch where the last one ended; here each
starts at random inside the ball, so that a batch is the same whatever came before it.
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
"""m of the paper, which has 8 for CIFAR and 4 for ImageNet; 4 make a batch cost what one of `adversarial-training` does."""


@dataclass(frozen=True)
class FreeTraining(InsideABall):
    """Squared error on moving images alone, four replays a batch."""

    name: ClassVar[str] = "free-training"
    paper: ClassVar[str] = "https://arxiv.org/abs/1904.12843"
    passes_an_image: ClassVar[int] = REPLAYS

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        """Of one replay."""
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
