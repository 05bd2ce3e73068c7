"""`unsharp`: unsharp masking, x + (x − G(x)) with a Gaussian G of σ = 1, clipped (in arXiv 2404.06957).

Exactly differentiable, except where it is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.defenses.purification.base import Purification, Purifier, clipped
from iqarena.defenses.purification.gaussian_blur import blurred, refuse_kernel


@dataclass(frozen=True)
class Unsharp(Purification):
    """Unsharp masking.

    Attributes:
        kernel: side of the Gaussian in pixels, odd, at least 3.
    """

    name: ClassVar[str] = "unsharp"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.06957"

    kernel: int = 3

    def __post_init__(self) -> None:
        refuse_kernel(self.name, self.kernel)

    def least(self, inner: int) -> int:
        return max(inner, self.kernel // 2 + 1)

    def purifier(self) -> Purifier:
        return lambda images: clipped(2 * images - blurred(images, self.kernel, 1.0))
