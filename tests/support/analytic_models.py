"""Tiny models whose best attack is known in closed form, and models that break their contract."""

from __future__ import annotations

import math

import torch

from iqarena.models.base import ModelInfo, QualityModel


class MeanModel(QualityModel):
    """A model whose score is the mean of all pixels."""

    info = ModelInfo("mean", min_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))


class LinearModel(QualityModel):
    """The linear model ½ + Σ w·(x − ½): seeded weights, none of them zero, with Σ|w| = `reach`."""

    def __init__(self, height: int = 16, width: int = 16, seed: int = 0, reach: float = 10.0) -> None:
        super().__init__()
        self.info = ModelInfo("linear", min_size=1)
        weights = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
        weights = weights + 0.05 * weights.sign()
        self.weight = torch.nn.Parameter(weights * (reach / weights.abs().sum()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 0.5 + (self.weight * (images - 0.5)).sum(dim=(1, 2, 3))


class QuadraticModel(QualityModel):
    """The quadratic model 1 − mean((x − c)²)."""

    info = ModelInfo("quadratic", min_size=1)

    def __init__(self, center: float = 0.4) -> None:
        super().__init__()
        self.center = center

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 1 - ((images - self.center) ** 2).mean(dim=(1, 2, 3))


class StochasticModel(QualityModel):
    """The mean pixel under random weights with mean one, drawn from torch's global stream."""

    info = ModelInfo("stochastic", min_size=1, stochastic=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * (1 + 0.5 * torch.randn(images.shape))).mean(dim=(1, 2, 3))


class NaNModel(QualityModel):
    """A model whose score and gradient are NaN for every image."""

    info = ModelInfo("nan", min_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3)) * math.nan


class WrongShapeModel(QualityModel):
    """A model that returns scores (N, 1) instead of (N,)."""

    info = ModelInfo("wrong-shape", min_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))[:, :1]
