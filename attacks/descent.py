"""Projected gradient descent on an objective, the common loop of the gradient attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.best import Best
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Ball, Norm, Threat

Memory = dict[str, torch.Tensor]
"""State of a run between steps, by name; empty at the start."""


def steepest(gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the direction of steepest ascent of unit length in a norm: the sign for linf, the unit vector for l2."""
    if norm == "linf":
        return gradient.sign()
    return gradient / euclidean(gradient).view(-1, 1, 1, 1)


def euclidean(shift: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean lengths (N,), clamped away from 0 so that one can divide by them."""
    length: torch.Tensor = shift.flatten(1).norm(dim=1).clamp(min=1e-12)
    return length


def downhill(images: torch.Tensor, gradient: torch.Tensor, size: float | torch.Tensor, norm: Norm) -> torch.Tensor:
    """Step against a gradient of any length; `size` is the step length, one for all images or (N,)."""
    if isinstance(size, float) and norm == "linf":
        return images.sub(gradient.sign(), alpha=size)
    length = torch.as_tensor(size, device=images.device) / (1.0 if norm == "linf" else euclidean(gradient))
    return images.addcmul(gradient.sign() if norm == "linf" else gradient, length.view(-1, 1, 1, 1), value=-1)


def noise(images: torch.Tensor, norm: Norm, generator: Generators) -> torch.Tensor:
    """Draw random perturbations of at most unit length: uniform for linf, of unit length for l2."""
    drawn = generator.uniform(-1, 1, images.shape[1:]).to(images)
    return drawn if norm == "linf" else steepest(drawn, "l2")


def random_point(images: torch.Tensor, threat: Threat, generator: Generators) -> torch.Tensor:
    """Draw a random point of the ball around each image."""
    return threat.project(images + threat.size * noise(images, threat.norm, generator), images)


@dataclass(frozen=True)
class GradientDescent(Attack):
    """Base of the gradient attacks; a subclass sets defaults or overrides one of the small methods.

    The result is the iterate of least loss, evaluated after rounding to 8 bit.

    Attributes:
        steps: gradient steps; fewer if the query limit is lower.
        step_size: length of a step as a fraction of the threat's size.
        restarts: runs from different starting points; the best result is returned.
        random_start: whether a single run starts at a random point of the ball; of several runs, the first starts at the
            clean image and the others at random points.
    """

    access: ClassVar[Access] = "gradient"

    steps: int = 10
    step_size: float = 0.25
    restarts: int = 1
    random_start: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or not self.step_size > 0:
            raise ValueError(f"{self.name}: steps and restarts must be at least 1 and step_size above 0")

    @property
    def passes(self) -> tuple[int, int]:
        backwards = self.restarts * (self.steps + (self.steps - 1) * self.between)
        return backwards + self.restarts, backwards

    @property
    def between(self) -> int:
        """Number of additional gradient queries between two steps."""
        return 0

    def aim(self, objective: Objective) -> Objective:
        """Return the objective that the attack optimises."""
        return objective

    def outlook(self, attacked: torch.Tensor, ball: Ball, memory: Memory) -> torch.Tensor:
        """Return the images, inside the ball, at which the next gradient is taken."""
        return attacked

    def ask(
        self,
        target: Target,
        stored: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
        memory: Memory,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the qualities of the stored images, NaN where they were not evaluated, and the gradients of the loss."""
        return target.quality_and_grad(stored, objective.loss)

    def direction(self, gradient: torch.Tensor, threat: Threat, memory: Memory) -> torch.Tensor:
        """Return the direction to step against."""
        return gradient

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        objective = self.aim(objective)
        best = Best(images, objective.loss(objective.clean))
        ball = Ball(threat, images)
        for restart in range(self.restarts):
            left = target.queries_left
            steps = self.steps
            if left is not None:
                steps = min(steps, (left // (self.restarts - restart) - 1 + self.between) // (1 + self.between))
            memory: Memory = {}
            random = restart > 0 or (self.random_start and self.restarts == 1)
            attacked = random_point(images, threat, generator) if random else images
            for step in range(steps):
                # gradient and score are taken at the image rounded to 8 bit; the iterate itself is not rounded
                stored = ball.snap(self.outlook(attacked, ball, memory))
                quality, gradient = self.ask(target, stored, objective, threat, generator, memory)
                if random or step > 0:
                    best.offer(stored, objective.loss(quality))
                direction = self.direction(gradient, threat, memory)
                attacked = ball.project(downhill(attacked, direction, self.step_size * threat.size, threat.norm))
            if steps > 0:
                stored = ball.snap(attacked)
                best.offer(stored, objective.loss(target.quality(stored)))
        return best.images
