"""What a model is here: RGB images in, raw quality scores out, and the facts that turn a score into a quality."""

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
    """Facts about a model that the harness needs as data.

    Attributes:
        name: registry name.
        score_range: the two raw scores that become quality 0 and 1 (or 1 and 0, see `higher_is_better`).
        higher_is_better: direction of the raw score.
        min_size: least height and width in pixels.
        differentiable: whether a gradient reaches the pixels.
        stochastic: whether the same image may get another score.
        weights_sha256: of the weight file, empty if there is none.
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

    ``forward`` takes RGB images (N, 3, H, W) in [0, 1] and returns raw scores (N,). Normalising, resizing and
    cropping happen inside it.
    """

    info: ModelInfo
    in_zoo: ClassVar[bool] = False  # whether its weights come from `iqarena.models.zoo`
    weights_wanted: ClassVar[str] = ""  # of a model whose weights are not shipped: what weights=FILE has to name

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Raw scores (N,) of images (N, 3, H, W) in [0, 1]."""

    def to_quality(self, scores: torch.Tensor) -> torch.Tensor:
        """Raw scores (N,) mapped by `score_range` so that 1 is best; not clamped.

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
        """Qualities (N,) of images (N, 3, H, W) in [0, 1]: 1 is best; not clamped."""
        return self.to_quality(self(images))

    def training_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What plain training brings down, a scalar: the squared error of qualities, where the paper has nothing of its own.

        Args:
            images: (N, 3, H, W) in [0, 1].
            labels: (N,) in [0, 1], 1 = best.
        """
        return functional.mse_loss(self.quality(images).float(), labels)


class FeatureModel(QualityModel):
    """A model with a visible seam between its last feature maps and its regression head, where a defense may act."""

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Last feature maps (M, C, h, w); M is a multiple of N where a model works on patches."""

    @abstractmethod
    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        """Raw scores (count,) from feature maps (M, C, h, w)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images), len(images))


class FittedModel(QualityModel):
    """A model that is fitted in one go, not by gradient steps.

    Attributes:
        needs_labels: whether labels are looked at.
        most_images: of a larger set, so many evenly chosen ones are fitted to; None for all.
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
            ValueError: where there are too few images, or too small ones.
        """


class Custom(QualityModel):
    """Any ``nn.Module`` from images (N, 3, H, W) in [0, 1] to scores (N,) or (N, 1), with the facts that it lacks."""

    def __init__(self, module: nn.Module, info: ModelInfo) -> None:
        super().__init__()
        self.module = module
        self.info = info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.module(images)
        return scores.squeeze(1) if scores.ndim == 2 and scores.shape[1] == 1 else scores
