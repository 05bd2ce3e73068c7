"""`madc`: the maximum differentiation competition's search (Wang and Simoncelli, Journal of Vision 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.descent import steepest
from iqarena.attacks.quality_aware import QualityAware, Shaping, reach, to_the_ball
from iqarena.attacks.similarity import ssim_and_grad
from iqarena.attacks.threat import Threat

_ROUNDS = 2
"""Scaling to the level and clipping to the ball undo a little of one another; twice is near enough."""


def along(direction: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Directions (N, 3, H, W) without their part along the normals; all of it where a normal is 0."""
    normal = steepest(normal, "l2")
    return direction - (direction * normal).flatten(1).sum(dim=1).view(-1, 1, 1, 1) * normal


@dataclass(frozen=True)
class MADC(QualityAware):
    """Moves on a level of a reference distance: steps orthogonal to that distance's gradient, then pulled back to the level.

    The distance is the MSE, and its level the l2 ball's surface or a share of the linf ball; under SSIM it is SSIM itself,
    at the threat's size. The first step leaves the clean image, where no distance has a gradient, for the level. Steps
    are Adam's, made orthogonal.

    Attributes:
        level: root mean square of the shift as a share of the linf ball's size: with 1 all values are at the ball's edge.
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
        """Euclidean length (N, 1, 1, 1) of shifts on the level; under SSIM, of the shift so far."""
        return reach(attacked, images, threat) * (self.level if threat.norm == "linf" else 1)

    def move(self, step: torch.Tensor, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        normal = ssim_and_grad(attacked, images)[1] if threat.norm == "ssim" else attacked - images
        started = (attacked != images).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        length = torch.where(started, self.step_size, 1.0) * self.radius(attacked, images, threat)
        return length * steepest(torch.where(started, along(step, normal), step), "l2")

    def bound(self, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        if threat.norm == "ssim":
            return to_the_ball(attacked, images, threat)
        for _ in range(_ROUNDS):
            shift = self.radius(attacked, images, threat) * steepest(attacked - images, "l2")
            attacked = threat.project(images + shift, images)
        return attacked
