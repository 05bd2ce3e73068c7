"""Gradient descent on gradients estimated from scores, the base of `nes` and `spsa`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.descent import Memory
from iqarena.attacks.objective import Objective
from iqarena.attacks.score import ScoreAttack, keep
from iqarena.attacks.threat import Ball, Threat


@dataclass(frozen=True)
class GradientEstimation(ScoreAttack):
    """Base of attacks that estimate g = 1/(2σn) Σ (ℓ(x + σu) − ℓ(x − σu)) u from n pairs of queries and step against it.

    A step takes 2n queries, and one more to score the image rounded to 8 bit; the last step uses the remaining pairs.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        pairs: n, antithetic pairs of probes per step.
        probe: σ, as a fraction of the threat's size (l2: the length of σu is this fraction of it).
        step_size: length of a step as a fraction of the threat's size.
        tile: side of the square of directions that is repeated over the image; 0 draws every pixel independently. Quality
            models respond to textures anywhere in the image, so a tile needs far fewer queries.
    """

    pairs: int = 10
    probe: float = 0.5
    step_size: float = 0.25
    tile: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs < 1 or not self.probe > 0 or not self.step_size > 0 or self.tile < 0:
            raise ValueError(f"{self.name}: pairs must be at least 1, probe and step_size above 0, and tile not below 0")

    @abstractmethod
    def directions(self, shape: tuple[int, ...], generator: Generators) -> torch.Tensor:
        """Draw random directions (N, *shape) of mean 0 and variance 1."""

    @abstractmethod
    def move(self, gradient: torch.Tensor, threat: Threat, memory: Memory) -> torch.Tensor:
        """Return the update of the images, as a fraction of a step."""

    def estimate(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators, pairs: int
    ) -> torch.Tensor:
        """Estimate the gradient (N, 3, H, W) of the loss from 2·pairs queries."""
        _, channels, height, width = images.shape
        sides = (min(self.tile, height), min(self.tile, width)) if self.tile else (height, width)
        repeats = (1, 1, -(-height // sides[0]), -(-width // sides[1]))

        def tiled(square: torch.Tensor) -> torch.Tensor:
            return square.repeat(repeats)[:, :, :height, :width] if self.tile else square

        size = threat.size if threat.norm == "linf" else threat.size / (channels * height * width) ** 0.5
        total = images.new_zeros(len(images), channels, *sides)
        for _ in range(pairs):
            drawn = self.directions((channels, *sides), generator).to(images)
            shift = tiled(self.probe * size * drawn)
            above = objective.loss(target.quality((images + shift).clamp_(0, 1)))
            below = objective.loss(target.quality((images - shift).clamp_(0, 1)))
            total += (above - below).view(-1, 1, 1, 1) * drawn
        total /= 2 * self.probe * size * pairs
        return tiled(total)

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        left = self.allowed(target)
        best, losses = images.clone(), objective.loss(objective.clean).clone()
        attacked, memory, ball = images, Memory(), Ball(threat, images)
        while left >= 3:
            pairs = min(self.pairs, (left - 1) // 2)
            gradient = self.estimate(target, attacked, objective, threat, generator, pairs)
            attacked = ball.project(attacked + self.step_size * threat.size * self.move(gradient, threat, memory))
            stored = ball.snap(attacked)
            keep(best, losses, stored, objective.loss(target.quality(stored)))
            left -= 2 * pairs + 1
        return best
