"""`random-rotate`: rotation of each image about its centre by an angle drawn uniformly from ±degrees (in arXiv 2404.06957).

Bilinear, same size, black corners. Exactly differentiable per draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier


def rotated(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    """Rotate each image (N, 3, H, W) counter-clockwise by its angle (N,)."""
    height, width = images.shape[2:]
    angle = degrees.to(images) * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # source position of an output pixel, in units of half a side
    x = torch.stack([cos, -sin * (height / width), zero], dim=1)
    y = torch.stack([sin * (width / height), cos, zero], dim=1)
    grid = functional.affine_grid(torch.stack([x, y], dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class RandomRotate(Purification):
    """A rotation by a random angle.

    Attributes:
        degrees: the largest angle, in (0, 180].
    """

    name: ClassVar[str] = "random-rotate"
    stochastic: ClassVar[bool] = True
    moves_pixels: ClassVar[bool] = True
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.06957"

    degrees: float = 15

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise ValueError(f"{self.name}: degrees {self.degrees} is outside (0, 180]")

    def purifier(self) -> Purifier:
        return lambda images: rotated(images, (2 * torch.rand(len(images)) - 1) * self.degrees)
