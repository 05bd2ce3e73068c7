"""`bit-depth`: channels quantised to fewer bits (Xu, Evans, Qi, arXiv 1704.01155): ⌊x·(2ᵇ − 1)⌉/(2ᵇ − 1).

The surrogate has the gradient of the identity (BPDA), as for `color-quantization`. The paper uses five bits for photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from iqarena.defenses.purification.base import Purification, Purifier, straight_through
from iqarena.defenses.purification.rounding import quantized


@dataclass(frozen=True)
class BitDepth(Purification):
    """Bit depth reduction.

    Attributes:
        bits: bits per channel, from 1 to 8.
    """

    name: ClassVar[str] = "bit-depth"
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "identity"
    paper: ClassVar[str] = "https://arxiv.org/abs/1704.01155"

    bits: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"{self.name}: bits {self.bits} is outside 1 … 8")

    def purifier(self) -> Purifier:
        return lambda images: quantized(images, 2**self.bits)

    def stand_in(self) -> Purifier:
        return straight_through(self.purifier())
