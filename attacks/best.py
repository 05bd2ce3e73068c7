"""Keeps, for each picture, the best that an attack has seen."""

from __future__ import annotations

import torch


class Best:
    """The candidates of least loss so far; starts from the clean pictures."""

    def __init__(self, images: torch.Tensor, losses: torch.Tensor) -> None:
        self.images, self.losses = images.clone(), losses.clone()

    def offer(self, images: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """Take what is better, picture by picture; returns the mask (N,) of what was. A NaN is never better."""
        better = losses < self.losses
        self.images = torch.where(better.view(-1, 1, 1, 1), images, self.images)
        self.losses = torch.where(better, losses, self.losses)
        return better
