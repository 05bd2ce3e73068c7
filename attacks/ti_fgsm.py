"""`ti-fgsm`: translation-invariant FGSM (Dong, Pang, Su, Zhu, CVPR 2019, arXiv 1904.02884)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.attacks.descent import GradientDescent, Memory
from iqarena.attacks.threat import Threat


@dataclass(frozen=True)
class TIFGSM(GradientDescent):
    """`i-fgsm` along gradients blurred by a Gaussian, which approximates the mean gradient over shifted images.

    Attributes:
        kernel: side of the Gaussian kernel, odd, in pixels; it is cut at three standard deviations. 1 is `i-fgsm`.
    """

    name: ClassVar[str] = "ti-fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/1904.02884"

    random_start: bool = False
    kernel: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"{self.name}: kernel must be an odd number of pixels")

    def direction(self, gradient: torch.Tensor, threat: Threat, memory: Memory) -> torch.Tensor:
        at = torch.linspace(-3, 3, self.kernel, dtype=gradient.dtype, device=gradient.device)
        bell = torch.exp(-(at**2) / 2)
        bell = (bell / bell.sum()).view(1, 1, 1, -1).expand(gradient.shape[1], -1, -1, -1)
        along = functional.conv2d(gradient, bell, padding="same", groups=gradient.shape[1])
        return functional.conv2d(along, bell.transpose(2, 3), padding="same", groups=gradient.shape[1])
