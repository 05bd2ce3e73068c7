"""Keeps, for each image, the best that an attack has seen."""

from __future__ import annotations

import torch


def chosen(mask: torch.Tensor, some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) of the first where the mask (N,) says so, else of the second; the very tensor if all are of one.

    On most steps of a descent all images get better, and copying them takes time: where some do, `torch.where` would
    take three times as long.
    """
    wanted = mask.tolist()
    if all(wanted):
        return some
    if not any(wanted):
        return others
    return torch.stack([one if first else other for first, one, other in zip(wanted, some, others, strict=True)])


class Best:
    """The candidates of least loss so far; starts from the clean images."""

    def __init__(self, images: torch.Tensor, losses: torch.Tensor) -> None:
        self.images, self.losses = images.clone(), losses.clone()

    def offer(self, images: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """Take what is better, image by image; returns the mask (N,) of what was. A NaN is never better."""
        better = losses < self.losses
        self.images = chosen(better, images, self.images)
        self.losses = torch.where(better, losses, self.losses)
        return better

    def part(self, index: torch.Tensor) -> Best:
        """The best of some of the images, by an index or mask (N,)."""
        return Best(self.images[index], self.losses[index])

    def offer_part(self, index: torch.Tensor, images: torch.Tensor, losses: torch.Tensor) -> None:
        """The same for some of the images, by their indices (M,)."""
        better = losses < self.losses[index]
        self.images, self.losses = self.images.clone(), self.losses.clone()
        self.images[index[better]] = images[better]
        self.losses[index[better]] = losses[better]
