"""Bookkeeping of the best candidate per image during an attack."""

from __future__ import annotations

import torch


def select(mask: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Select images (N, 3, H, W) from `first` where the mask (N,) is true, else from `second`.

    Returns the input tensor itself if all images come from one of them: at most steps of a descent all images improve, and
    copying takes time. For mixed masks `torch.where` would take three times as long.
    """
    flags = mask.tolist()
    if all(flags):
        return first
    if not any(flags):
        return second
    return torch.stack([a if flag else b for flag, a, b in zip(flags, first, second, strict=True)])


class Best:
    """The images of least loss so far, starting from the clean images."""

    def __init__(self, images: torch.Tensor, losses: torch.Tensor) -> None:
        self.images, self.losses = images.clone(), losses.clone()

    def offer(self, images: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """Keep the better images, and return their mask (N,). NaN never counts as better."""
        better = losses < self.losses
        self.images = select(better, images, self.images)
        self.losses = torch.where(better, losses, self.losses)
        return better

    def part(self, index: torch.Tensor) -> Best:
        """Return the best of a subset of the images, given by an index or mask (N,)."""
        return Best(self.images[index], self.losses[index])

    def offer_part(self, index: torch.Tensor, images: torch.Tensor, losses: torch.Tensor) -> None:
        """Keep the better images of a subset, given by its indices (M,)."""
        better = losses < self.losses[index]
        self.images, self.losses = self.images.clone(), self.losses.clone()
        self.images[index[better]] = images[better]
        self.losses[index[better]] = losses[better]
