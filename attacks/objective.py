"""What an attack is after, in units of quality, as a loss that it makes small."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

CLOSE = 1e-3
"""Quality units: an aim that is met so nearly is met."""

Kind = Literal["raise", "lower", "reflect", "away", "target"]
Mirror = Literal["mid", "mean", "label"]


@dataclass(frozen=True)
class Objective:
    """An objective bound to the images under attack.

    With quality q of the attacked and q₀ of the clean image, and the mirror m (0.5, the middle of the range):

        raise     −q                     lower     q
        reflect   (q − (2m − q₀))²       away      −sign(m − q₀) · q       target    (q − value)²

    Reflecting all images exactly turns an SROCC into its negative; `away` pushes each image across the mirror and on.
    Both come from our reconstruction of the score reflection attack from the abstracts of arXiv 2404.19567.

    Attributes:
        kind: one of the five.
        value: the quality that `target` aims at, one for all or one an image (N,).
        clean: clean qualities (N,) as the attacked model gives them.
        data_mean: mean clean quality over the whole image set.
        labels: the images' labels in [0, 1], (N,), or None.
        mirror: where `reflect` and `away` fold: mid-range, the data's mean, or each image's label.
    """

    kind: Kind
    clean: torch.Tensor
    data_mean: float = 0.5
    labels: torch.Tensor | None = None
    value: float | torch.Tensor = 1.0
    mirror: Mirror = "mid"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"objective {self.kind!r} is not one of {', '.join(get_args(Kind))}")
        if self.mirror == "label" and self.labels is None:
            raise ValueError("mirror=label needs a data set with labels")

    def about(self, mirror: Mirror) -> Objective:
        """The same objective with another mirror."""
        return replace(self, mirror=mirror)

    def of_kind(self, kind: Kind) -> Objective:
        """Another objective for the same images."""
        return replace(self, kind=kind)

    def part(self, index: torch.Tensor) -> Objective:
        """The objective of some of the images, by an index or mask (N,)."""
        return replace(
            self,
            clean=self.clean[index],
            labels=None if self.labels is None else self.labels[index],
            value=self.value[index] if isinstance(self.value, torch.Tensor) else self.value,
        )

    @property
    def axis(self) -> torch.Tensor:
        """The mirror's place for each image, (N,)."""
        if self.mirror == "label" and self.labels is not None:
            return self.labels
        return torch.full_like(self.clean, 0.5 if self.mirror == "mid" else self.data_mean)

    def loss(self, quality: torch.Tensor) -> torch.Tensor:
        """Loss (N,) of qualities (N,); smaller is a better attack.

        Example:
            >>> reflect = Objective("reflect", clean=torch.tensor([0.8]))
            >>> reflect.loss(torch.tensor([0.2])).item() < 1e-12  # mirrored about 0.5
            True
            >>> away = Objective("away", clean=torch.tensor([0.8]))
            >>> bool(away.loss(torch.tensor([0.1])) < away.loss(torch.tensor([0.3])))
            True
        """
        if self.kind == "raise":
            return -quality
        if self.kind == "lower":
            return quality.clone()  # never the qualities themselves: who keeps losses up to date would change those
        if self.kind == "target":
            return (quality - self.value) ** 2
        if self.kind == "reflect":
            return (quality - (2 * self.axis - self.clean)) ** 2
        # an image exactly on the mirror is pushed up
        return torch.where(self.axis >= self.clean, -quality, quality)

    def reached(self, loss: torch.Tensor) -> torch.Tensor:
        """Whether a loss (N,) leaves nothing to gain, (N,) bool: an aim can be met, a push has no end."""
        return (loss <= CLOSE**2) if self.kind in ("reflect", "target") else torch.zeros_like(loss, dtype=torch.bool)
