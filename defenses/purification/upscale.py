"""`upscale`: downscaling, then bilinear upscaling to the original size (arXiv 2408.01541). Exactly differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier
from iqarena.defenses.purification.resize import shrunk


@dataclass(frozen=True)
class Upscale(Purification):
    """Downscaling and upscaling to the original size.

    Attributes:
        scale: scale of both sides of the downscaled image, in (0, 1].
    """

    name: ClassVar[str] = "upscale"
    paper: ClassVar[str] = "https://arxiv.org/abs/2408.01541"

    scale: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"{self.name}: scale {self.scale} is outside (0, 1]")

    def purifier(self) -> Purifier:
        return self._resized

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        size = images.shape[2:]
        return functional.interpolate(shrunk(images, self.scale), size, mode="bilinear", align_corners=False)
