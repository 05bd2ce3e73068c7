"""Objectives of attacks: losses in units of quality that an attack minimises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

CLOSE = 1e-3
"""Tolerance, in units of quality, within which a target quality counts as reached."""

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
        kind: one of the five kinds.
        value: the quality that `target` aims at, one value for all images or one per image (N,).
        clean: qualities (N,) that the attacked model gives the clean images.
        data_mean: mean clean quality of the whole image set.
        labels: labels of the images in [0, 1], (N,), or None.
        mirror: the quality m that `reflect` and `away` mirror at: mid-range, the mean of the data, or the label of each
            image.
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
        """Return the same objective with another mirror."""
        return replace(self, mirror=mirror)

    def of_kind(self, kind: Kind) -> Objective:
        """Return an objective of another kind for the same images."""
        return replace(self, kind=kind)

    def part(self, index: torch.Tensor) -> Objective:
        """Return the objective of a subset of the images, given by an index or mask (N,)."""
        return replace(
            self,
            clean=self.clean[index],
            labels=None if self.labels is None else self.labels[index],
            value=self.value[index] if isinstance(self.value, torch.Tensor) else self.value,
        )

    @property
    def axis(self) -> torch.Tensor:
        """The mirror m of each image, (N,)."""
        if self.mirror == "label" and self.labels is not None:
            return self.labels
        return torch.full_like(self.clean, 0.5 if self.mirror == "mid" else self.data_mean)

    def loss(self, quality: torch.Tensor) -> torch.Tensor:
        """Return the loss (N,) of qualities (N,); lower means a stronger attack.

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
            return quality.clone()  # a copy: attacks that update losses in place must not change the qualities
        if self.kind == "target":
            return (quality - self.value) ** 2
        if self.kind == "reflect":
            return (quality - (2 * self.axis - self.clean)) ** 2
        # an image whose quality is exactly at the mirror is pushed up
        return torch.where(self.axis >= self.clean, -quality, quality)

    def reached(self, loss: torch.Tensor) -> torch.Tensor:
        """Check, per loss (N,), whether there is nothing left to gain, (N,) bool; only `reflect` and `target` can be met."""
        return (loss <= CLOSE**2) if self.kind in ("reflect", "target") else torch.zeros_like(loss, dtype=torch.bool)
