"""`gaussian-blur`: a Gaussian of k×k pixels, σ = 0.3·((k − 1)/2 − 1) + 0.8 (OpenCV's rule). Exactly differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier


def blurred(images: torch.Tensor, kernel: int, sigma: float) -> torch.Tensor:
    """Images (N, 3, H, W) under a Gaussian of `kernel` pixels a side, borders mirrored without repeating the edge."""
    radius = kernel // 2
    places = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    line = torch.exp(-0.5 * (places / sigma) ** 2)
    line = (line / line.sum()).expand(images.shape[1], 1, 1, kernel)
    padded = functional.pad(images, (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, line, groups=images.shape[1])
    return functional.conv2d(across, line.transpose(2, 3), groups=images.shape[1])


def refuse_kernel(name: str, kernel: int) -> None:
    """A kernel has a middle and more than it.

    Raises:
        ValueError: where it is even or below 3.
    """
    if kernel < 3 or kernel % 2 == 0:
        raise ValueError(f"{name}: kernel {kernel} is not an odd number of at least 3")


@dataclass(frozen=True)
class GaussianBlur(Purification):
    """A Gaussian blur.

    Attributes:
        kernel: pixels a side, odd, at least 3.
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
