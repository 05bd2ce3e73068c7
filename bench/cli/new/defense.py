"""`my-idea`: TODO what it is, and where it comes from (authors, venue, year, link)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch.nn.functional import avg_pool2d, pad

from iqarena.defenses.purification.base import Purification, Purifier


@dataclass(frozen=True)
class MyIdea(Purification):
    """TODO in a sentence. As it stands: every pixel becomes the mean of the square around it.

    Attributes:
        radius: half the side of the square in pixels, from 0 on; 0 changes nothing.
    """

    name: ClassVar[str] = "my-idea"
    stochastic: ClassVar[bool] = False  # TODO True if it draws random numbers, from torch's global stream
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "exact"  # TODO see stand_in()
    paper: ClassVar[str] = "unpublished"  # TODO a link

    radius: int = 1

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise ValueError(f"{self.name}: radius must be at least 0")

    def purifier(self) -> Purifier:
        # TODO your idea: images (N, 3, H, W) in [0, 1] to images of the same kind. If it has no useful gradient,
        # give an attacker one in stand_in(): a smooth filter, or straight_through(self.purifier())
        side, around = 2 * self.radius + 1, (self.radius,) * 4
        return lambda images: avg_pool2d(pad(images, around, mode="replicate"), side, stride=1)
