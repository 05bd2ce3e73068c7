"""`median-blur`: a k×k median filter per channel (Xu, Evans, Qi, arXiv 1704.01155).

Exactly differentiable: the gradient flows to the pixel that is the median.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier
from iqarena.defenses.purification.gaussian_blur import refuse_kernel


def median_of(images: torch.Tensor, kernel: int) -> torch.Tensor:
    """Apply a median filter of `kernel` pixels per side to images (N, 3, H, W), with reflected borders."""
    filtered = []
    for image in images.split(1):  # one at a time, as kernel² copies of an image are needed
        padded = functional.pad(image, (kernel // 2,) * 4, mode="reflect")
        around = functional.unfold(padded, kernel).view(image.shape[1], kernel**2, *image.shape[2:])
        filtered.append(around.median(dim=1).values)
    return torch.stack(filtered)


@dataclass(frozen=True)
class MedianBlur(Purification):
    """A median filter.

    Attributes:
        kernel: side in pixels, odd, at least 3.
    """

    name: ClassVar[str] = "median-blur"
    paper: ClassVar[str] = "https://arxiv.org/abs/1704.01155"

    kernel: int = 3

    def __post_init__(self) -> None:
        refuse_kernel(self.name, self.kernel)

    def least(self, inner: int) -> int:
        return max(inner, self.kernel // 2 + 1)

    def purifier(self) -> Purifier:
        return lambda images: median_of(images, self.kernel)
