"""Projected gradient descent on an objective: the loop that the gradient attacks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Access, Attack, Generators, Target
from attacks.best import Best
from attacks.objective import Objective
from attacks.threat import Norm, Threat


def steepest(gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The direction of steepest ascent at unit length in a norm: the sign for linf, the unit vector for l2."""
    if norm == "linf":
        return gradient.sign()
    length: torch.Tensor = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
    return gradient / length.view(-1, 1, 1, 1)


@dataclass(frozen=True)
class GradientDescent(Attack):
    """Base of the gradient attacks; a subclass sets defaults or overrides one of the small methods.

    Of all iterates, as they would be stored in 8 bit, the one of least loss counts.

    Attributes:
        steps: gradient steps; fewer where the query limit allows no more.
        step_size: length of a step as a share of the threat's size.
        restarts: runs from other starts; the best of all counts.
        random_start: whether a single run starts at a random point of the ball; of several, the first starts clean and the
            others at random.
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
        return self.restarts * (self.steps + 1), self.restarts * self.steps

    def aim(self, objective: Objective) -> Objective:
        """The objective that is really followed."""
        return objective

    def start(self, images: torch.Tensor, threat: Threat, generator: Generators) -> torch.Tensor:
        """A random point of the ball."""
        noise = generator.uniform(-1, 1, images.shape[1:]).to(images)
        return threat.project(images + threat.size * (noise if threat.norm == "linf" else steepest(noise, "l2")), images)

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        objective = self.aim(objective)
        best = Best(images, objective.loss(objective.clean))
        for restart in range(self.restarts):
            left = target.queries_left
            steps = self.steps if left is None else min(self.steps, left // (self.restarts - restart) - 1)
            random = restart > 0 or (self.random_start and self.restarts == 1)
            attacked = self.start(images, threat, generator) if random else images
            for step in range(steps):
                # gradient and score are those of the picture as it would be stored, while steps add up unrounded
                stored = threat.snap(attacked, images)
                quality, gradient = target.quality_and_grad(stored, objective.loss)
                if random or step > 0:
                    best.offer(stored, objective.loss(quality))
                move = self.step_size * threat.size * steepest(gradient, threat.norm)
                attacked = threat.project(attacked - move, images)
            if steps > 0:
                stored = threat.snap(attacked, images)
                best.offer(stored, objective.loss(target.quality(stored)))
        return best.images
