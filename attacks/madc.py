"""`madc`: the search of the maximum differentiation competition (Wang and Simoncelli, Journal of Vision 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.descent import steepest
from iqarena.attacks.quality_aware import QualityAware, Shaping, reach, to_the_ball
from iqarena.attacks.similarity import ssim_and_grad
from iqarena.attacks.threat import Threat

_ROUNDS = 2
"""Rounds of scaling to the level set and clipping to the ball, each of which slightly undoes the other."""


def orthogonal_to(direction: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Remove the component of directions (N, 3, H, W) along the normals; a zero normal removes nothing."""
    normal = steepest(normal, "l2")
    return direction - (direction * normal).flatten(1).sum(dim=1).view(-1, 1, 1, 1) * normal


@dataclass(frozen=True)
class MADC(QualityAware):
    """A search on a level set of a reference distance: steps orthogonal to its gradient, then projected onto the level set.

    The distance is the MSE, and the level set is the surface of the l2 ball or a sphere in the linf ball; under SSIM the
    distance is SSIM, at the threat's size. The first step goes from the clean image, where the distance has no gradient, to
    the level set. Steps are those of Adam, made orthogonal.

    Attributes:
        level: root mean square of the perturbation as a fraction of the size of the linf ball; with 1, all values are at the
            edge of the ball.
    """

    name: ClassVar[str] = "madc"
    paper: ClassVar[str] = "https://doi.org/10.1167/8.12.8"

    step_size: float = 0.25
    level: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.level <= 1:
            raise ValueError(f"{self.name}: level is a share in (0, 1], not {self.level:g}")

    def shaping(self, images: torch.Tensor) -> Shaping:
        return lambda gradient, stored: gradient

    def radius(self, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        """Return the Euclidean length (N, 1, 1, 1) of perturbations on the level set; under SSIM, of the current one."""
        return reach(attacked, images, threat) * (self.level if threat.norm == "linf" else 1)

    def move(self, step: torch.Tensor, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        normal = ssim_and_grad(attacked, images)[1] if threat.norm == "ssim" else attacked - images
        started = (attacked != images).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        length = torch.where(started, self.step_size, 1.0) * self.radius(attacked, images, threat)
        return length * steepest(torch.where(started, orthogonal_to(step, normal), step), "l2")

    def bound(self, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        if threat.norm == "ssim":
            return to_the_ball(attacked, images, threat)
        for _ in range(_ROUNDS):
            shift = self.radius(attacked, images, threat) * steepest(attacked - images, "l2")
            attacked = threat.project(images + shift, images)
        return attacked
