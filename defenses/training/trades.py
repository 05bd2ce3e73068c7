"""`trades`: accuracy on clean images and stability inside the ball (Zhang et al., ICML 2019), for regression.

Squared error and squared difference replace cross-entropy and Kullback-Leibler divergence. The inner attack is PGD on that
difference, so it does not use labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.training.ball import INNER_STEPS, InsideABall
from iqarena.defenses.training.loop import in_eval_mode, inner_attack
from iqarena.models.base import QualityModel


@dataclass(frozen=True)
class Trades(InsideABall):
    """The loss (f(x) − y)² + β·(f(x′) − f(x))², with x′ the image inside the ball whose score differs most.

    Attributes:
        beta: β. If shifts are as large as errors, `adversarial-training` corresponds to 1.5.
    """

    name: ClassVar[str] = "trades"
    paper: ClassVar[str] = "https://arxiv.org/abs/1901.08573"
    passes_an_image: ClassVar[int] = INNER_STEPS + 3  # the clean score, inner steps, then the clean and the attacked image

    beta: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_negative(beta=self.beta)

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        with in_eval_mode(model), torch.no_grad():
            clean_scores = model.quality(images).float()
        attacked = inner_attack(model, images, clean_scores, self.ball(progress), INNER_STEPS)
        clean, adversarial = model.quality(torch.cat([images, attacked])).float().chunk(2)
        return (clean - labels).square().mean() + self.beta * (adversarial - clean).square().mean()
