"""`ssah`: high-frequency perturbations (the low-frequency constraint of Luo et al., CVPR 2022, arXiv 2203.05151)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.attacks.quality_aware import QualityAware, Shaping, to_the_ball
from iqarena.attacks.threat import Threat


def low_band(images: torch.Tensor) -> torch.Tensor:
    """Return the LL band of a one-level Haar wavelet transform at full size: the mean of each 2×2 block."""
    height, width = images.shape[2:]
    means = functional.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
    return means.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[..., :height, :width]


@dataclass(frozen=True)
class SSAH(QualityAware):
    """Adam on a perturbation whose Haar low band is removed after every step, so that block means do not change.

    The authors' loss adds λ·|LL(x) − LL(x₀)|; here it is a constraint, so no λ has to be tuned per model. Their other term,
    a similarity of a classifier's features, has no counterpart for a score.

    Attributes:
        low: fraction of the low band of the perturbation that is kept; 1 is plain Adam.
    """

    name: ClassVar[str] = "ssah"
    paper: ClassVar[str] = "https://arxiv.org/abs/2203.05151"

    low: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low <= 1:
            raise ValueError(f"{self.name}: low is a share in [0, 1], not {self.low:g}")

    def shaping(self, images: torch.Tensor) -> Shaping:
        return lambda gradient, stored: gradient

    def bound(self, attacked: torch.Tensor, images: torch.Tensor, threat: Threat) -> torch.Tensor:
        return to_the_ball(attacked - (1 - self.low) * low_band(attacked - images), images, threat)
