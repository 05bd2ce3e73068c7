"""`random-noise`: Gaussian noise added before scoring, clip(x + σn) (arXiv 2408.01541). Exactly differentiable per draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.purification.base import Purification, Purifier, clipped


@dataclass(frozen=True)
class RandomNoise(Purification):
    """Gaussian noise, clipped to [0, 1].

    Attributes:
        sigma: standard deviation, in (0, 1], of pixels in [0, 1].
    """

    name: ClassVar[str] = "random-noise"
    stochastic: ClassVar[bool] = True
    paper: ClassVar[str] = "https://arxiv.org/abs/2408.01541"

    sigma: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ValueError(f"{self.name}: sigma {self.sigma} is outside (0, 1]")

    def purifier(self) -> Purifier:
        return lambda images: clipped(images + self.sigma * torch.randn(images.shape).to(images))
