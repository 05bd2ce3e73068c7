"""`uap`: universal perturbation for quality models (Shumitskaya, Antsiferova, Vatolin, BMVC 2022, arXiv 2211.00366)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.attacks.universal import Universal, backpropagate, minibatches


@dataclass(frozen=True)
class UAP(Universal):
    """One tile for all images, optimised by Adam and clamped to the ball after each step.

    Attributes:
        tile: side of the tile in pixels; at most that of the images it is fitted on.
        epochs: passes over these images, for each restart.
        batch: images per step.
        restarts: tiles learned from other starts, the first from zero; the tile of least mean loss is kept.
        learning_rate: initial learning rate of Adam as a fraction of the threat's size; it falls linearly to 0.
    """

    name: ClassVar[str] = "uap"
    paper: ClassVar[str] = "https://arxiv.org/abs/2211.00366"

    learning_rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rate > 0:
            raise ValueError(f"{self.name}: learning_rate must be above 0")

    def learned(
        self,
        start: torch.Tensor,
        target: Target,
        images: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
    ) -> torch.Tensor:
        tile = start.requires_grad_()
        adam = torch.optim.Adam([tile], eps=1e-12)  # gradients per pixel are small
        for index, rate in minibatches(len(images), self.batch, self.epochs, generator):
            adam.zero_grad()
            backpropagate(
                target.part(index),
                images[index],
                objective.part(index),
                threat,
                lambda part: self.spread(tile, part, threat),
            )
            adam.param_groups[0]["lr"] = self.learning_rate * rate
            adam.step()
            if threat.norm == "linf":
                tile.data.clamp_(-1, 1)
        return tile.detach()
