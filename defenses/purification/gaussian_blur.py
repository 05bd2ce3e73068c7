"""`gaussian-blur`: a Gaussian of k×k pixels, σ = 0.3·((k − 1)/2 − 1) + 0.8 (OpenCV's rule). Exactly differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier


def blurred(images: torch.Tensor, kernel: int, sigma: float) -> torch.Tensor:
    """Blur images (N, 3, H, W) by a Gaussian of `kernel` pixels per side, with reflected borders."""
    radius = kernel // 2
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = (taps / taps.sum()).expand(images.shape[1], 1, 1, kernel)
    padded = functional.pad(images, (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, taps, groups=images.shape[1])
    return functional.conv2d(across, taps.transpose(2, 3), groups=images.shape[1])


def refuse_kernel(name: str, kernel: int) -> None:
    """Check that a kernel size is valid.

    Raises:
        ValueError: if it is even or below 3.
    """
    if kernel < 3 or kernel % 2 == 0:
        raise ValueError(f"{name}: kernel {kernel} is not an odd number of at least 3")


@dataclass(frozen=True)
class GaussianBlur(Purification):
    """A Gaussian blur.

    Attributes:
        kernel: side in pixels, odd, at least 3.
    """

    name: ClassVar[str] = "gaussian-blur"
    paper: ClassVar[str] = "https://arxiv.org/abs/2408.01541"

    kernel: int = 3

    def __post_init__(self) -> None:
        refuse_kernel(self.name, self.kernel)

    def least(self, inner: int) -> int:
        return max(inner, self.kernel // 2 + 1)

    def purifier(self) -> Purifier:
        sigma = 0.3 * ((self.kernel - 1) / 2 - 1) + 0.8
        return lambda images: blurred(images, self.kernel, sigma)
