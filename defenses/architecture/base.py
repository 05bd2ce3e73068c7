"""Base classes of the architecture defenses: their training, and a block inserted before the head."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from iqarena.defenses.base import DoesNotApply, Kind, TrainedDefense
from iqarena.defenses.none import NoDefense
from iqarena.defenses.training.adversarial import AdversarialTraining
from iqarena.models.base import FeatureModel, QualityModel


@dataclass(frozen=True)
class Architecture(TrainedDefense):
    """Base of changed networks, trained by plain regression, one pass per image, unless `training` is "adversarial".

    Attributes:
        training: "plain", or "adversarial" for the recipe `adversarial-training` on the changed network.
        epsilon, ramp: parameters of that recipe.
    """

    kind: ClassVar[Kind] = "architecture"
    passes_an_image: ClassVar[int] = NoDefense.passes_an_image

    training: Literal["plain", "adversarial"] = "plain"
    epsilon: float = 2 / 255
    ramp: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes_an_image", self._recipe().passes_an_image)

    def _recipe(self) -> TrainedDefense:
        if self.training == "plain":
            return NoDefense()
        return AdversarialTraining(epsilon=self.epsilon, ramp=self.ramp)

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        return self._recipe().loss(model, images, labels, progress)


class WithBlock(FeatureModel):
    """A model with a block between its last feature maps and its head."""

    def __init__(self, model: FeatureModel, block: nn.Module) -> None:
        super().__init__()
        self.model, self.block = model, block
        self.info = model.info

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Apply the block to the last feature maps; the shape does not change."""
        maps: torch.Tensor = self.block(self.model.features(images))
        return maps

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        return self.model.head(features, count)


@dataclass(frozen=True)
class SeamBlock(Architecture):
    """Base of defenses that insert a block before the head.

    Class attributes:
        over_places: whether the block compares positions of a map, so that maps of a single position are not supported.
    """

    over_places: ClassVar[bool] = False

    @abstractmethod
    def block(self, channels: int) -> nn.Module:
        """Build the block, from feature maps (M, channels, h, w) to the same shape; initially close to the identity."""

    def prepare(self, model: QualityModel) -> QualityModel:
        copied = super().prepare(model)
        if not isinstance(copied, FeatureModel):
            raise DoesNotApply(
                f"{self.name} needs a model with visible feature maps (FeatureModel), and {model.info.name} has none"
            )
        was_training, side = copied.training, 2 * copied.info.min_size
        with torch.inference_mode():
            _, channels, height, width = copied.eval().features(torch.zeros(1, 3, side, side)).shape
        if self.over_places and height * width == 1:
            raise DoesNotApply(
                f"{self.name} compares places of feature maps, and those of {model.info.name} have a single one"
            )
        return WithBlock(copied.train(was_training), self.block(channels))
