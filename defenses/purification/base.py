"""A purified model: pictures pass through a filter on their way in."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.base import QualityModel

Purifier = Callable[[torch.Tensor], torch.Tensor]
"""Pictures (N, 3, H, W) in [0, 1] to pictures of the same kind."""


class PurifiedModel(QualityModel):
    """``model(purify(images))``."""

    def __init__(self, model: QualityModel, purify: Purifier) -> None:
        super().__init__()
        self.model, self.purify = model, purify
        self.info = model.info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.model(self.purify(images))
        return scores
