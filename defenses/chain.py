"""Chains of filters, such as `jpeg+flip`, applied from left to right."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from iqarena.defenses.base import Defense
from iqarena.defenses.purification.base import Purification, Purifier, weights_sha256

_KINDS: tuple[Literal["exact", "smooth", "identity"], ...] = ("exact", "smooth", "identity")  # from best to worst


class Sequence(nn.Module):
    """A filter that applies several filters one after another."""

    def __init__(self, filters: list[Purifier]) -> None:
        super().__init__()
        self.filters = filters
        self.networks = nn.ModuleList(purify for purify in filters if isinstance(purify, nn.Module))
        hashes = [sha256 for sha256 in map(weights_sha256, filters) if sha256]
        self.weights_sha256 = hashlib.sha256(" ".join(hashes).encode()).hexdigest() if hashes else ""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for purify in self.filters:
            images = purify(images)
        return images


@dataclass(frozen=True)
class Chain(Purification):
    """Purifications one after another; as differentiable as the least differentiable one, stochastic if any of them is.

    Attributes:
        links: at least two purifications; the first one is applied to the image.
    """

    name: ClassVar[str] = ""  # set per chain

    links: tuple[Defense, ...]

    def __post_init__(self) -> None:
        for link in self.links:
            if not isinstance(link, Purification):
                raise ValueError(f"only purifications can be chained, and {link.name} is {link.kind}")
        facts = {
            "name": "+".join(link.name for link in self.links),
            "stochastic": any(link.stochastic for link in self.links),
            "surrogate_kind": max((link.surrogate_kind for link in self.links), key=_KINDS.index),
            "moves_pixels": any(link.moves_pixels for link in self.filters),
            "paper": " ".join(dict.fromkeys(link.paper for link in self.links if link.paper)),
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def filters(self) -> tuple[Purification, ...]:
        """The links."""
        return tuple(link for link in self.links if isinstance(link, Purification))

    def purifier(self) -> Purifier:
        return Sequence([link.purifier() for link in self.filters])

    def stand_in(self) -> Purifier:
        return Sequence([link.stand_in() for link in self.filters])

    def least(self, inner: int) -> int:
        for link in reversed(self.filters):
            inner = link.least(inner)
        return inner
