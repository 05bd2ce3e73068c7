"""`median-blur`: each value the median of the k×k around it in its channel (Xu, Evans, Qi, arXiv 1704.01155).

Exactly differentiable: the gradient goes to the pixel that is the median.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier
from iqarena.defenses.purification.gaussian_blur import refuse_kernel


def median_of(images: torch.Tensor, kernel: int) -> torch.Tensor:
    """Images (N, 3, H, W), borders mirrored without repeating the edge."""
    made = []
    for image in images.split(1):  # one at a time: kernel² copies of it are needed
        padded = functional.pad(image, (kernel // 2,) * 4, mode="reflect")
        around = functional.unfold(padded, kernel).view(image.shape[1], kernel**2, *image.shape[2:])
        made.append(around.median(dim=1).values)
    return torch.stack(made)


@dataclass(frozen=True)
class MedianBlur(Purification):
    """A median filter.

    Attributes:
        kernel: pixels a side, odd, at least 3.
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
