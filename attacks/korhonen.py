"""`korhonen`: gradients masked by spatial activity (Korhonen and You, QoEVMA 2022, doi 10.1145/3552469.3555715)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.attacks.quality_aware import QualityAware, Shaping
from iqarena.attacks.similarity import luma

_RADIUS = 2
"""Radius of the authors' structuring element, a 5×5 square without its corners."""


def activity(images: torch.Tensor) -> torch.Tensor:
    """Compute the authors' spatial activity map, (N, 1, H, W) in [0, 1].

    The squared length of the Sobel gradient of the luma, 0 at the border, divided by its maximum, then dilated; 1 everywhere
    for an image without edges.
    """
    padded = functional.pad(luma(images), (1, 1, 1, 1), mode="replicate")
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    edges = functional.pad((across**2 + down**2)[..., 1:-1, 1:-1], (1, 1, 1, 1))
    most = edges.amax(dim=(2, 3), keepdim=True)
    edges = torch.where(most > 1e-9, edges / most.clamp(min=1e-9), 1)
    wide = functional.max_pool2d(edges, (2 * _RADIUS - 1, 2 * _RADIUS + 1), 1, (_RADIUS - 1, _RADIUS))
    high = functional.max_pool2d(edges, (2 * _RADIUS + 1, 2 * _RADIUS - 1), 1, (_RADIUS, _RADIUS - 1))
    return torch.maximum(wide, high)


@dataclass(frozen=True)
class Korhonen(QualityAware):
    """Adam on gradients masked by spatial activity: edges and texture change, flat areas hardly do.

    Adam divides by the gradient magnitude of each pixel and so cancels a mask, except for its ε. With the authors' fixed ε,
    the effect of the mask depends on the scale of the model's gradients. `softness` is ε in units of masked gradients, so
    that the mask has the same effect on every model.
    """

    name: ClassVar[str] = "korhonen"
    paper: ClassVar[str] = "https://doi.org/10.1145/3552469.3555715"

    softness: float = 1.0

    def shaping(self, images: torch.Tensor) -> Shaping:
        mask = activity(images)
        return lambda gradient, stored: gradient * mask
