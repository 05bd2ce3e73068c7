"""`resize`: the image downscaled before scoring (Xie et al., arXiv 1711.01991, with a fixed scale).

Bilinear with antialiasing, as in Pillow. Exactly differentiable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier


def shrunk(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Downscale both sides by `scale`, rounded down, to at least one pixel."""
    height, width = (max(1, math.floor(side * scale)) for side in images.shape[2:])
    return functional.interpolate(images, (height, width), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class Resize(Purification):
    """Downscaling by a fixed factor.

    Attributes:
        scale: scale of both sides, in (0, 1].
    """

    name: ClassVar[str] = "resize"
    moves_pixels: ClassVar[bool] = True
    paper: ClassVar[str] = "https://arxiv.org/abs/1711.01991"

    scale: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"{self.name}: scale {self.scale} is outside (0, 1]")

    def least(self, inner: int) -> int:
        side = math.ceil(inner / self.scale)
        return side if math.floor(side * self.scale) >= inner else side + 1  # the floating point product may be rounded down

    def purifier(self) -> Purifier:
        return lambda images: shrunk(images, self.scale)
