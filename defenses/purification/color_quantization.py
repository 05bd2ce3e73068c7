"""`color-quantization`: channels rounded to a few levels (Xu, Evans, Qi, arXiv 1704.01155, as feature squeezing).

The deployed filter is ⌊x·(n − 1)⌉/(n − 1). Its surrogate has the gradient of the identity (BPDA): attacks through soft
rounding are weaker, since it mispredicts quality by up to 0.4, while any slope has the same sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from iqarena.defenses.purification.base import Purification, Purifier, straight_through
from iqarena.defenses.purification.rounding import quantized


@dataclass(frozen=True)
class ColorQuantization(Purification):
    """Quantisation of channels to a number of levels.

    Attributes:
        levels: number of levels, from 2 to 256, including 0 and 1.
    """

    name: ClassVar[str] = "color-quantization"
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "identity"
    paper: ClassVar[str] = "https://arxiv.org/abs/1704.01155"

    levels: int = 16

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise ValueError(f"{self.name}: levels {self.levels} is outside 2 … 256")

    def purifier(self) -> Purifier:
        return lambda images: quantized(images, self.levels)

    def stand_in(self) -> Purifier:
        return straight_through(self.purifier())
