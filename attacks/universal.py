"""What the attacks share that are fitted beforehand: minibatches, the gradient of their mean loss, and repeated tiles."""

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
    """Indices of each minibatch, every image once an epoch in random order, with a rate that falls linearly from 1."""
    starts = range(0, count, size)
    total = epochs * len(starts)
    for epoch in range(epochs):
        order = generator.uniform(0, 1, (count,))[0].argsort()
        for number, start in enumerate(starts):
            yield order[start : start + size], 1 - (epoch * len(starts) + number) / total


def backpropagate(
    target: Target, images: torch.Tensor, objective: Objective, threat: Threat, shift: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Send the gradient of the mean loss into what ``shift(images)`` was made from; scored are images as stored.

    Args:
        shift: what to add to images (N, 3, H, W); inside the ball.
    """
    with torch.enable_grad():
        moved = (images + shift(images)).clamp(0, 1)
        stored = threat.snap(threat.project(moved.detach(), images), images)
        _, gradient = target.quality_and_grad(stored, objective.loss)
        moved.backward(gradient / len(images))


def filling(direction: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Shifts (N, 3, H, W) in the ball, from values in [−1, 1] for linf; l2: of the ball's whole radius."""
    return threat.size * (direction if threat.norm == "linf" else steepest(direction, "l2"))


@dataclass(frozen=True)
class Universal(FittedAttack):
    """Base of the attacks that add one tile to every image, repeated from its upper left corner on.

    linf: ε times the tile, whose values are in [−1, 1]. l2: the tile is only a direction, and each image's shift is as
    long as the ball allows.

    Attributes:
        tile: its side in pixels; at most that of the images that it is fitted on.
        epochs: passes over these images, for each restart.
        batch: images a step.
        restarts: tiles learnt from other starts; the one of least mean loss counts.
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
        """The tile (3, h, w) that a single run ends with, from a start of the same shape."""

    def fit(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators) -> Fit:
        height, width = images.shape[2:]
        shape = (3, min(self.tile, height), min(self.tile, width))
        found, least = images.new_zeros(shape), math.inf
        for restart in range(self.restarts):
            start = generator.uniform(-1, 1, shape)[0].to(images) if restart else images.new_zeros(shape)
            tile = self.learned(start, target, images, objective, threat, generator)
            loss = self._mean_loss(tile, target, images, objective, threat)
            if loss < least:
                found, least = tile, loss
        return {"tile": found}

    def spread(self, tile: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """The tile (3, h, w) over images (N, 3, H, W), as their shift (1, 3, H, W)."""
        height, width = images.shape[2:]
        whole = tile.repeat(1, -(-height // tile.shape[1]), -(-width // tile.shape[2]))[:, :height, :width]
        return filling(whole[None], threat)

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
