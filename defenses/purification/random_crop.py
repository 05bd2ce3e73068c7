"""`random-crop`: a square crop at a random position (Guo et al., arXiv 1711.00117). Exactly differentiable per draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.purification.base import Purification, Purifier


@dataclass(frozen=True)
class RandomCrop(Purification):
    """A square crop at a random position of each image.

    Attributes:
        size: side of the crop in pixels; no image may be smaller.
    """

    name: ClassVar[str] = "random-crop"
    stochastic: ClassVar[bool] = True
    moves_pixels: ClassVar[bool] = True
    paper: ClassVar[str] = "https://arxiv.org/abs/1711.00117"

    size: int = 128

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"{self.name}: size {self.size} is below one pixel")

    def least(self, inner: int) -> int:
        if self.size < inner:
            raise DoesNotApply(f"{self.name} leaves {self.size}×{self.size}, and {inner}×{inner} is needed behind it")
        return self.size

    def purifier(self) -> Purifier:
        return self._crop

    def _crop(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        if min(height, width) < self.size:
            raise ValueError(f"{self.name}: {width}×{height} is smaller than the crop of {self.size}×{self.size}")
        crops = []
        for image in images:
            top, left = (int(torch.randint(side - self.size + 1, ())) for side in (height, width))
            crops.append(image[:, top : top + self.size, left : left + self.size])
        return torch.stack(crops)
