"""Base class and helpers of the fitted attacks: minibatches, the gradient of their mean loss, and repeated tiles."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.descent import steepest
from iqarena.attacks.fitted import Fit, FittedAttack
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat


def minibatches(count: int, size: int, epochs: int, generator: Generators) -> Iterator[tuple[torch.Tensor, float]]:
    """Yield the indices of each minibatch, in random order per epoch, and a rate that falls linearly from 1."""
    starts = range(0, count, size)
    total = epochs * len(starts)
    for epoch in range(epochs):
        order = generator.uniform(0, 1, (count,))[0].argsort()
        for number, start in enumerate(starts):
            yield order[start : start + size], 1 - (epoch * len(starts) + number) / total


def backpropagate(
    target: Target, images: torch.Tensor, objective: Objective, threat: Threat, shift: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Backpropagate the gradient of the mean loss, taken at the images rounded to 8 bit, through ``shift(images)``.

    Args:
        shift: returns the perturbation of images (N, 3, H, W), inside the ball.
    """
    with torch.enable_grad():
        moved = (images + shift(images)).clamp(0, 1)
        stored = threat.snap(threat.project(moved.detach(), images), images)
        _, gradient = target.quality_and_grad(stored, objective.loss)
        moved.backward(gradient / len(images))


def filling(direction: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Scale directions to perturbations (N, 3, H, W) in the ball: linf, from values in [−1, 1]; l2, to the radius."""
    return threat.size * (direction if threat.norm == "linf" else steepest(direction, "l2"))


@dataclass(frozen=True)
class Universal(FittedAttack):
    """Base of the attacks that add one tile to every image, repeated from the upper left corner.

    linf: ε times the tile, whose values are in [−1, 1]. l2: the tile gives only the direction, and the perturbation of each
    image has the length of the ball's radius.

    Attributes:
        tile: side of the tile in pixels; at most that of the images it is fitted on.
        epochs: passes over these images, for each restart.
        batch: images per step.
        restarts: tiles learned from other starts; the tile of least mean loss is kept.
    """

    tile: int = 128
    epochs: int = 10
    batch: int = 4
    restarts: int = 8

    def __post_init__(self) -> None:
        if min(self.tile, self.epochs, self.batch, self.restarts) < 1:
            raise ValueError(f"{self.name}: tile, epochs, batch and restarts must be at least 1")

    @abstractmethod
    def learned(
        self,
        start: torch.Tensor,
        target: Target,
        images: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
    ) -> torch.Tensor:
        """Run one optimisation, and return the resulting tile (3, h, w); `start` has the same shape."""

    def fit(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators) -> Fit:
        height, width = images.shape[2:]
        shape = (3, min(self.tile, height), min(self.tile, width))
        best, best_loss = images.new_zeros(shape), math.inf
        for restart in range(self.restarts):
            start = generator.uniform(-1, 1, shape)[0].to(images) if restart else images.new_zeros(shape)
            tile = self.learned(start, target, images, objective, threat, generator)
            loss = self._mean_loss(tile, target, images, objective, threat)
            if loss < best_loss:
                best, best_loss = tile, loss
        return {"tile": best}

    def spread(self, tile: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Repeat the tile (3, h, w) over images (N, 3, H, W), and scale it to their perturbation (1, 3, H, W)."""
        height, width = images.shape[2:]
        repeated = tile.repeat(1, -(-height // tile.shape[1]), -(-width // tile.shape[2]))[:, :height, :width]
        return filling(repeated[None], threat)

    def _mean_loss(
        self, tile: torch.Tensor, target: Target, images: torch.Tensor, objective: Objective, threat: Threat
    ) -> float:
        total = 0.0
        for index in torch.arange(len(images)).split(self.batch):
            part = images[index]
            stored = threat.snap(threat.project(part + self.spread(tile, part, threat), part), part)
            total += float(objective.part(index).loss(target.part(index).quality(stored)).sum())
        return total / len(images)

    def shift(self, fit: Fit, images: torch.Tensor, objective: Objective, threat: Threat) -> torch.Tensor:
        return self.spread(fit["tile"].to(images), images, threat).expand_as(images)
