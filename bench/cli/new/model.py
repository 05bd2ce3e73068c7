"""`my-idea`: TODO what it is, and where it comes from (authors, venue, year, link)."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d

from iqarena.models.base import ModelInfo, QualityModel

NATURAL = 0.012
"""Mean detail of a natural image, in [0, 1]; noise raises it, blur and compression lower it."""


class MyIdea(QualityModel):
    """TODO in a sentence. As it stands: how near the mean detail of an image is to a natural one's."""

    info = ModelInfo(
        "my-idea",
        score_range=(0.0, 1.0),  # TODO the raw scores that mean worst and best
        higher_is_better=True,
        min_size=32,
        licence="MIT",  # TODO yours
        paper="unpublished",  # TODO a link
    )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # TODO your network: images (N, 3, H, W) in [0, 1] to raw scores (N,). Normalise, resize and crop in here. Weights
        # of your own are loaded in __init__, or named by the user as my-idea[weights=FILE]
        gray = images.mean(dim=1, keepdim=True)
        detail = (gray[..., 1:-1, 1:-1] - avg_pool2d(gray, 3, stride=1)).square().add(1e-8).sqrt().mean(dim=(1, 2, 3))
        return 1 / (1 + (detail / NATURAL).log().square())
