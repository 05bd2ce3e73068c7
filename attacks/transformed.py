"""Descent on the parameters of an image transformation, such as a warp or a colour curve, instead of on pixels."""

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
"""Initial strength, and the number of corrections of the strength that reaches the edge of the ball."""
_INSIDE = 0.99
"""Fraction of the ball that a step may use, so that rounding to 8 bit rarely leaves it."""
_CORRECTIONS = 2
"""Corrections after a step; for images that are still outside, `snap` would search longer."""
_OUTWARD = 2
"""Maximum factor by which the final parameters are scaled outward to the edge."""


@dataclass(frozen=True)
class Transformed(Attack):
    """Base of attacks on the parameters (N, …) of a transformation; zero is the identity.

    Steps are fractions of the strength at which the first direction reaches the edge of the ball (linf: at which pixels
    change by ε on average, since changes beyond ε are clipped), which is measured on the images without queries. For l2 and
    ssim the parameters are scaled down until the image is inside, instead of blending the image with the clean one; the
    final parameters are also scaled up to the edge. The result is the iterate of least loss, evaluated after rounding to 8
    bit.

    Attributes:
        steps: gradient steps; fewer if the query limit is lower.
        step_size: length of the first step as a fraction of that strength; it falls linearly to 0.
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
        """Return the parameters of the identity, zero."""

    @abstractmethod
    def applied(self, parameters: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Apply the transformation to the images."""

    @abstractmethod
    def direction(
        self, parameters: torch.Tensor, images: torch.Tensor, gradient: torch.Tensor, threat: Threat
    ) -> torch.Tensor:
        """Return the update direction of the parameters, of values up to 1, that descends a gradient (N, 3, H, W)."""

    @abstractmethod
    def allowed(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the nearest valid parameters."""

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
        """Return factors (N, 1, …) that scale parameters to the edge, if the distance is a power of their magnitude."""
        moved = self.applied(parameters, images)
        change = (moved - images).abs().mean(dim=(1, 2, 3)) if threat.norm == "linf" else threat.distance(moved, images)
        factor = _INSIDE * threat.size / change.clamp(min=1e-9)
        # SSIM decreases with the square of a small change
        factor = factor.sqrt() if threat.norm == "ssim" else factor
        return factor.view(-1, *[1] * (parameters.dim() - 1))

    def _reach(self, direction: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Return the strength (N, 1, …) at which a direction reaches the edge; large if it hardly changes the image."""
        strength = torch.full_like(direction.flatten(1)[:, :1], _FIRST).view(-1, *[1] * (direction.dim() - 1))
        for _ in range(_MEASURED):
            moved = self.allowed(strength * direction)
            strength = strength * self._correction(moved, images, threat).clamp(0.1, 10)
        return strength
