"""Gradient descent with perceptual constraints, the common loop of the quality-aware attacks."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.best import Best
from iqarena.attacks.descent import steepest
from iqarena.attacks.objective import Objective
from iqarena.attacks.similarity import ssim
from iqarena.attacks.threat import Norm, Threat

Shaping = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps the gradient of the loss, and the image at which it was taken, to the gradient to follow; (N, 3, H, W)."""

_MEAN_DECAY, _SQUARE_DECAY = 0.9, 0.999
"""The decay rates of Adam."""
_FIRST_STEP = 8 / 255
"""Change of a pixel in the first step under SSIM, where the size of the ball says nothing about pixels; any step is then
scaled to the ball."""
_MARGIN = 0.98
"""Fraction of the SSIM ball that is used, as rounding to 8 bit adds to the distance."""


@dataclass(frozen=True)
class QualityAware(Attack):
    """Base of the quality-aware attacks: Adam (Kingma and Ba, arXiv 1412.6980) on the image, from the clean one.

    The published versions have no bound; here the step size scales with the threat's size, and every iterate is projected
    into the ball. The result is the iterate of least loss, evaluated after rounding to 8 bit.

    Under SSIM every iterate is scaled to the boundary of the ball, outward as well as inward: 1 − SSIM grows about as the
    square of the perturbation, so one measurement gives the factor. Only the last image gets the exact line search of the
    threat model.

    Attributes:
        steps: gradient steps; fewer if the query limit is lower.
        step_size: length of a step as a fraction of the threat's size; under SSIM, of the current perturbation.
        softness: ε of Adam, in units of the mean absolute gradient of the image: with 0 every pixel moves by the same
            amount; the larger it is, the less pixels of small gradient move.
    """

    access: ClassVar[Access] = "gradient"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "ssim")

    steps: int = 10
    step_size: float = 0.5
    softness: float = 0.3

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.step_size > 0 or not self.softness >= 0:
            raise ValueError(f"{self.name}: steps must be at least 1, step_size above 0 and softness not below 0")

    @property
    def passes(self) -> tuple[int, int]:
        return self.steps + 1, self.steps

    @abstractmethod
    def shaping(self, images: torch.Tensor) -> Shaping:
        """Return the function that modifies the gradients of attacks on these clean images."""

    def bound(self, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Project an iterate into the ball and onto the other constraints of the attack."""
        return to_the_ball(attacked, images, threat)

    def move(self, step: torch.Tensor, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Scale a step of Adam (N, 3, H, W), of about unit size per pixel, to the change to subtract from the iterate."""
        if threat.norm == "linf":
            return self.step_size * threat.size * step
        return self.step_size * reach(attacked, images, threat) * steepest(step, "l2")

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        left = target.queries_left
        steps = self.steps if left is None else min(self.steps, left - 1)
        best = Best(images, objective.loss(objective.clean))
        shape = self.shaping(images)
        attacked, mean, square = images, torch.zeros_like(images), torch.zeros_like(images)
        for step in range(steps):
            stored = rounded(attacked, images, threat)
            quality, gradient = target.quality_and_grad(stored, objective.loss)
            if step > 0:
                best.offer(stored, _if_inside(objective.loss(quality), stored, images, threat))
            gradient = torch.nan_to_num(shape(gradient, stored))
            size = gradient.flatten(1).norm(p=1, dim=1) / gradient[0].numel()
            gradient /= size.clamp(min=1e-20).view(-1, 1, 1, 1)
            mean.lerp_(gradient, 1 - _MEAN_DECAY)
            square.mul_(_SQUARE_DECAY).addcmul_(gradient, gradient, value=1 - _SQUARE_DECAY)
            started, squared = 1 - _MEAN_DECAY ** (step + 1), 1 - _SQUARE_DECAY ** (step + 1)
            # (mean/started) / (√(square/squared) + ε), in as few passes over the images as possible
            spread = square.sqrt().mul_(started / math.sqrt(squared)).add_(started * max(self.softness, 1e-8))
            attacked = self.bound(attacked - self.move(mean / spread, attacked, images, threat), images, threat)
        if steps > 0:
            stored = threat.snap(outward(attacked, images, threat), images)
            best.offer(stored, objective.loss(target.quality(stored)))
        return best.images


def reach(attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Return the Euclidean length (N, 1, 1, 1) that step sizes are fractions of: the radius of the ball, or under SSIM the
    length of the current perturbation."""
    if threat.norm == "l2":
        return images.new_full((len(images), 1, 1, 1), threat.size)
    root = math.sqrt(images[0].numel())
    if threat.norm == "linf":
        return images.new_full((len(images), 1, 1, 1), threat.size * root)
    length: torch.Tensor = (attacked - images).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return torch.where(length > 0, length, _FIRST_STEP * root)


def to_the_ball(attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Project images into the ball; under SSIM, scale them to about its boundary, which they may exceed slightly."""
    if threat.norm != "ssim":
        return threat.project(attacked, images)
    attacked = attacked.clamp(0, 1)
    distance = (1 - ssim(attacked, images)).clamp(min=1e-6)
    share = (_MARGIN * threat.size / distance).sqrt().clamp(max=4)
    return (images + share.view(-1, 1, 1, 1) * (attacked - images)).clamp(0, 1)


def outward(attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Return images that use the whole ball after `snap`: under SSIM, with a perturbation twice as large."""
    return attacked if threat.norm != "ssim" else (images + 2 * (attacked - images)).clamp(0, 1)


def rounded(attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Round images to the 8-bit grid; under SSIM they may be outside the ball, to avoid a line search at every step."""
    return (attacked * 255).round() / 255 if threat.norm == "ssim" else threat.snap(attacked, images)


def _if_inside(losses: torch.Tensor, stored: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Return the losses (N,), set to infinity for stored images outside the SSIM ball."""
    if threat.norm != "ssim":
        return losses
    return torch.where(threat.distance(stored, images) <= threat.size - 1e-6, losses, math.inf)
