"""Descent in the parameters of a change of the whole image, such as a warp or a colour curve, instead of in its pixels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.best import Best
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Norm, Threat

_FIRST, _MEASURED = 1e-2, 10
"""A strength to begin with, and how often the strength that reaches the ball's edge is corrected."""
_INSIDE = 0.99
"""How much of the ball a step may use, so that rounding to 8 bit rarely leaves it."""
_CORRECTIONS = 2
"""After a step; `snap` would search longer for what is still outside."""
_OUTWARD = 2
"""By how much, at most, the last parameters are drawn out to the edge."""


@dataclass(frozen=True)
class Transformed(Attack):
    """Base of attacks on a transformation's parameters, (N, …), of which zero is the identity.

    Steps are shares of the strength at which the first direction reaches the edge of the ball (linf: at which pixels
    change by ε on average, since what goes beyond ε is clipped), found by measuring images, not by asking the model. For
    l2 and ssim it is the parameters that are shortened until the image is inside, and not the image that is mixed with
    the clean one; the last ones are also drawn out to the edge. Of all iterates, as they would be stored in 8 bit, the one
    of least loss counts.

    Attributes:
        steps: gradient steps; fewer where the query limit allows no more.
        step_size: of the first step, as such a share; it falls linearly to 0.
    """

    access: ClassVar[Access] = "gradient"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "ssim")

    steps: int = 20
    step_size: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.step_size > 0:
            raise ValueError(f"{self.name}: steps must be at least 1 and step_size above 0")

    @property
    def passes(self) -> tuple[int, int]:
        return self.steps + 1, self.steps

    @abstractmethod
    def identity(self, images: torch.Tensor) -> torch.Tensor:
        """Parameters of zero."""

    @abstractmethod
    def applied(self, parameters: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The transformed images."""

    @abstractmethod
    def direction(
        self, parameters: torch.Tensor, images: torch.Tensor, gradient: torch.Tensor, threat: Threat
    ) -> torch.Tensor:
        """Where to move the parameters, at most 1 each, to go down a gradient (N, 3, H, W) by the transformed images."""

    @abstractmethod
    def allowed(self, parameters: torch.Tensor) -> torch.Tensor:
        """The nearest parameters that make sense."""

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        best = Best(images, objective.loss(objective.clean))
        left = target.queries_left
        steps = self.steps if left is None else min(self.steps, left - 1)
        parameters, stored = self.identity(images), images
        unit = torch.zeros_like(parameters)
        for step in range(steps):
            quality, gradient = target.quality_and_grad(stored, objective.loss)
            if step > 0:
                best.offer(stored, objective.loss(quality))
            direction = self.direction(parameters, images, gradient, threat)
            if step == 0:
                unit = self._reach(direction, images, threat)
            parameters = self.allowed(parameters + self.step_size * (1 - step / steps) * unit * direction)
            if threat.norm != "linf":
                most = 1 if step + 1 < steps else _OUTWARD
                for _ in range(_CORRECTIONS):
                    parameters = parameters * self._correction(parameters, images, threat).clamp(max=most)
            stored = threat.snap(self.applied(parameters, images), images)
        if steps > 0:
            best.offer(stored, objective.loss(target.quality(stored)))
        return best.images

    def _correction(self, parameters: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Factors (N, 1, …) that bring parameters to the edge, were the distance a power of their size."""
        moved = self.applied(parameters, images)
        change = (moved - images).abs().mean(dim=(1, 2, 3)) if threat.norm == "linf" else threat.distance(moved, images)
        factor = _INSIDE * threat.size / change.clamp(min=1e-9)
        # SSIM falls with the square of a small change
        factor = factor.sqrt() if threat.norm == "ssim" else factor
        return factor.view(-1, *[1] * (parameters.dim() - 1))

    def _reach(self, direction: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """The strength (N, 1, …) at which a direction reaches the edge; where it hardly changes the image, a large one."""
        strength = torch.full_like(direction.flatten(1)[:, :1], _FIRST).view(-1, *[1] * (direction.dim() - 1))
        for _ in range(_MEASURED):
            moved = self.allowed(strength * direction)
            strength = strength * self._correction(moved, images, threat).clamp(0.1, 10)
        return strength
