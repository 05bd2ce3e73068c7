"""A model whose head sees only what an activation keeps of its last feature maps."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from models.base import FeatureModel


class Activation(nn.Module, ABC):
    """Parts feature maps z (N, C, h, w) into the CPR, which it returns, and the N-CPR, which is the rest."""

    @abstractmethod
    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """How much of each value is kept, in [0, 1]; (N, C, 1, 1) or (N, C, h, w)."""


class CPRLModel(FeatureModel):
    """A model whose head sees only the CPR of its last feature maps."""

    def __init__(self, model: FeatureModel, activation: Activation) -> None:
        super().__init__()
        self.model, self.activation = model, activation
        self.info = model.info

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The model's own last feature maps z, CPR and N-CPR together."""
        return self.model.features(images)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The CPR of the last feature maps."""
        cpr: torch.Tensor = self.activation(self.maps(images))
        return cpr

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        return self.model.head(features, count)


class StraightThrough(Activation):
    """An activation whose gradient is the identity's (BPDA, Athalye et al., arXiv 1802.00420)."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """As of the activation itself."""
        return self.activation.kept(features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = self.activation(features)
        return features + (kept - features).detach()
