"""Base class and helpers of the score-only attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.threat import Threat

STARTS = ((1, 1), (2, 2), (8, 8), (0, 1), (4, 4), (1, 0))
"""Rows and columns of the blocks of the initial random sign patterns; 0 is the whole side. Quality models are most sensitive
to the scale of a texture, and the best scale depends on the model and the direction."""


@dataclass(frozen=True)
class ScoreAttack(Attack):
    """Base of the score-only attacks.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
    """

    access: ClassVar[Access] = "score"

    queries: int = 1000

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError(f"{self.name}: queries must be at least 1")

    @property
    def passes(self) -> tuple[int, int]:
        return self.queries, 0

    def allowed(self, target: Target) -> int:
        """Return the number of queries that the query limit allows."""
        left = target.queries_left
        return self.queries if left is None else min(self.queries, left)


def ends(images: torch.Tensor, threat: Threat) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the darkest and the brightest 8-bit image of an ℓ∞ ball."""
    low, high = threat.end_levels(images)
    return low.div_(255), high.div_(255)


def signs_in_blocks(images: torch.Tensor, size: tuple[int, int], generator: Generators) -> torch.Tensor:
    """Draw random signs (N, C, H, W) that are constant within blocks of `size` rows and columns."""
    _, channels, height, width = images.shape
    signs = generator.signs((channels, -(-height // size[0]), -(-width // size[1]))).to(images)
    return signs.repeat_interleave(size[0], 2)[:, :, :height].repeat_interleave(size[1], 3)[..., :width]


def keep(images: torch.Tensor, losses: torch.Tensor, seen: torch.Tensor, seen_losses: torch.Tensor) -> torch.Tensor:
    """Write improved images into `images` and `losses`, and return their mask (N,). NaN never counts as an improvement.

    Like `iqarena.attacks.best.Best`, but in place: most queries improve few images, and copying all of them takes time.
    """
    better = seen_losses < losses
    images[better] = seen[better]
    losses[better] = seen_losses[better]
    return better


def permutations(count: int, generator: Generators) -> torch.Tensor:
    """Draw random permutations of 0 … count − 1, (N, count)."""
    return torch.stack([torch.randperm(count, generator=stream) for stream in generator.streams])


def windows(
    top: torch.Tensor, left: torch.Tensor, side: int, channels: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an index that selects one square (N, C, side, side) per image (N, C, H, W), given by its corner (N,)."""
    device = top.device
    along = torch.arange(side, device=device)
    return (
        torch.arange(len(top), device=device).view(-1, 1, 1, 1),
        torch.arange(channels, device=device).view(1, -1, 1, 1),
        (top[:, None] + along)[:, None, :, None],
        (left[:, None] + along)[:, None, None, :],
    )
