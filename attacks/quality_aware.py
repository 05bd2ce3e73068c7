"""Gradient descent that minds how the image looks: the loop that the quality-aware attacks share."""

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
"""From the gradient of the loss, and the image where it was taken, to the gradient that is followed; (N, 3, H, W)."""

_MEAN_DECAY, _SQUARE_DECAY = 0.9, 0.999
"""Adam's."""
_FIRST_STEP = 8 / 255
"""Of a pixel; where the ball's size is in SSIM it says nothing about pixels, and any step is then scaled to fit."""
_MARGIN = 0.98
"""Of the SSIM ball, for what rounding to 8 bit adds."""


@dataclass(frozen=True)
class QualityAware(Attack):
    """Base of the quality-aware attacks: Adam (Kingma and Ba, arXiv 1412.6980) on the image, from the clean one.

    The authors' versions know no bound; here the steps follow the threat's size, and every iterate is brought to the ball.
    Of all iterates, as they would be stored in 8 bit, the one of least loss counts.

    Under SSIM every iterate is scaled to the ball's rim, outward as well as inward: 1 − SSIM grows about as the square of
    a shift, so one measurement says how far. Only the last image gets the threat's exact line search.

    Attributes:
        steps: gradient steps; fewer where the query limit allows no more.
        step_size: length of a step as a share of the threat's size; under SSIM, of the shift so far.
        softness: Adam's ε, in units of the mean absolute gradient of the image: with 0 every pixel moves at the same pace,
            and the larger it is the less those of small gradient do.
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
        """What is made of the gradients of attacks on these clean images."""

    def bound(self, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """An iterate brought to the ball, and to what else the attack keeps to."""
        return to_the_ball(attacked, images, threat)

    def move(self, step: torch.Tensor, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """What Adam's step (N, 3, H, W), of about one a pixel, takes off the iterate."""
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
            # mean/started over √(square/squared) + ε, in as few passes over the images as will do
            spread = square.sqrt().mul_(started / math.sqrt(squared)).add_(started * max(self.softness, 1e-8))
            attacked = self.bound(attacked - self.move(mean / spread, attacked, images, threat), images, threat)
        if steps > 0:
            stored = threat.snap(outward(attacked, images, threat), images)
            best.offer(stored, objective.loss(target.quality(stored)))
        return best.images


def reach(attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Euclidean length (N, 1, 1, 1) that step sizes are shares of: the ball's radius, or under SSIM the shift's so far."""
    if threat.norm == "l2":
        return images.new_full((len(images), 1, 1, 1), threat.size)
    root = math.sqrt(images[0].numel())
    if threat.norm == "linf":
        return images.new_full((len(images), 1, 1, 1), threat.size * root)
    length: torch.Tensor = (attacked - images).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return torch.where(length > 0, length, _FIRST_STEP * root)


def to_the_ball(attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Images inside the ball; under SSIM near its rim, which the iterates may overstep by a little."""
    if threat.norm != "ssim":
        return threat.project(attacked, images)
    attacked = attacked.clamp(0, 1)
    distance = (1 - ssim(attacked, images)).clamp(min=1e-6)
    share = (_MARGIN * threat.size / distance).sqrt().clamp(max=4)
    return (images + share.view(-1, 1, 1, 1) * (attacked - images)).clamp(0, 1)


def outward(attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Images that use the whole ball once they are snapped: under SSIM, shifted twice as far."""
    return attacked if threat.norm != "ssim" else (images + 2 * (attacked - images)).clamp(0, 1)


def rounded(attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Images on the 8-bit grid; under SSIM not yet known to be inside, since that would take a line search a step."""
    return (attacked * 255).round() / 255 if threat.norm == "ssim" else threat.snap(attacked, images)


def _if_inside(losses: torch.Tensor, stored: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Losses (N,), infinite where what is stored left the SSIM ball."""
    if threat.norm != "ssim":
        return losses
    return torch.where(threat.distance(stored, images) <= threat.size - 1e-6, losses, math.inf)
