"""The interface of quality models: RGB images to raw scores, and the facts that map a score to a quality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model that the harness needs.

    Attributes:
        name: registry name.
        score_range: the two raw scores that map to quality 0 and 1 (or 1 and 0, see `higher_is_better`).
        higher_is_better: direction of the raw score.
        min_size: minimum height and width in pixels.
        differentiable: whether the score has a gradient with respect to the pixels.
        stochastic: whether the score of an image may vary between calls.
        weights_sha256: hash of the weight file, empty if there is none.
        licence, paper, trained_on: for the card and the docs.
    """

    name: str
    score_range: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    min_size: int = 32
    differentiable: bool = True
    stochastic: bool = False
    weights_sha256: str = ""
    licence: str = ""
    paper: str = ""
    trained_on: str = ""

    def __post_init__(self) -> None:
        low, high = self.score_range
        if not low < high:
            raise ValueError(f"{self.name}: score_range must be (low, high) with low < high, not {self.score_range}")


class QualityModel(nn.Module, ABC):
    """A no-reference quality model.

    ``forward`` takes RGB images (N, 3, H, W) in [0, 1] and returns raw scores (N,). Normalisation, resizing and
    cropping are part of it.
    """

    info: ModelInfo
    in_zoo: ClassVar[bool] = False  # whether its weights come from `iqarena.models.zoo`
    weights_wanted: ClassVar[str] = ""  # if the weights are not shipped: description of the file for weights=FILE

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the raw scores (N,) of images (N, 3, H, W) in [0, 1]."""

    def to_quality(self, scores: torch.Tensor) -> torch.Tensor:
        """Map raw scores (N,) by `score_range` to qualities, 1 = best, not clamped.

        Example:
            >>> from iqarena.models.cnniqa import CNNIQA
            >>> model = CNNIQA()
            >>> model.info = ModelInfo("theirs", score_range=(0.0, 100.0), higher_is_better=False)
            >>> [round(quality, 2) for quality in model.to_quality(torch.tensor([0.0, 25.0, 110.0])).tolist()]
            [1.0, 0.75, -0.1]
        """
        low, high = self.info.score_range
        share = (scores - low) / (high - low)
        return share if self.info.higher_is_better else 1 - share

    def quality(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the qualities (N,) of images (N, 3, H, W) in [0, 1]; 1 = best, not clamped."""
        return self.to_quality(self(images))

    def training_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss of plain training, a scalar: the squared error of qualities, unless the paper has its own loss.

        Args:
            images: (N, 3, H, W) in [0, 1].
            labels: (N,) in [0, 1], 1 = best.
        """
        return functional.mse_loss(self.quality(images).float(), labels)


class FeatureModel(QualityModel):
    """A model with separate feature maps and regression head, so that a defense can act between them."""

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the last feature maps (M, C, h, w); M is a multiple of N for models that work on patches."""

    @abstractmethod
    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        """Compute the raw scores (count,) from feature maps (M, C, h, w)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images), len(images))


class FittedModel(QualityModel):
    """A model that is fitted in a single call, not by gradient steps.

    Attributes:
        needs_labels: whether the fit uses labels.
        most_images: maximum number of images, selected evenly from a larger set; None for all.
    """

    needs_labels: ClassVar[bool] = True
    most_images: ClassVar[int | None] = None

    @abstractmethod
    def fit(self, images: Iterable[tuple[torch.Tensor, float]]) -> dict[str, float | int | str]:
        """Fit in place.

        Args:
            images: each (3, H, W) in [0, 1], with its label in [0, 1], 1 = best; any number where labels are not needed.

        Returns:
            Facts for the card.

        Raises:
            ValueError: if there are too few images or they are too small.
        """


class Custom(QualityModel):
    """A wrapper of any ``nn.Module`` from images (N, 3, H, W) in [0, 1] to scores (N,) or (N, 1), with its facts."""

    def __init__(self, module: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.module = module
        self.info = info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.module(images)
        return scores.squeeze(1) if scores.ndim == 2 and scores.shape[1] == 1 else scores
