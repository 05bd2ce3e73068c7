"""`flip`: the image rotated by 180°, that is, mirrored along both axes (in arXiv 2404.06957). Exactly differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.defenses.purification.base import Purification, Purifier


@dataclass(frozen=True)
class Flip(Purification):
    """A rotation by 180°."""

    name: ClassVar[str] = "flip"
    moves_pixels: ClassVar[bool] = True
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.06957"

    def purifier(self) -> Purifier:
        return lambda images: images.flip(2, 3)
