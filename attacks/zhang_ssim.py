"""`zhang-ssim`: the loss of the score plus 1 − SSIM (Zhang et al., NeurIPS 2022, arXiv 2210.00933)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.quality_aware import QualityAware, Shaping
from iqarena.attacks.similarity import WINDOW, ssim_and_grad


@dataclass(frozen=True)
class ZhangSSIM(QualityAware):
    """Adam on the Lagrangian loss(q) + λ·(1 − SSIM), inside the ball.

    Attributes:
        similarity: λ, the weight of SSIM in units of quality.
    """

    name: ClassVar[str] = "zhang-ssim"
    min_size: ClassVar[int] = WINDOW
    paper: ClassVar[str] = "https://arxiv.org/abs/2210.00933"

    similarity: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.similarity >= 0:
            raise ValueError(f"{self.name}: similarity is a weight of at least 0, not {self.similarity:g}")

    def shaping(self, images: torch.Tensor) -> Shaping:
        return lambda gradient, stored: gradient - self.similarity * ssim_and_grad(stored, images)[1]
