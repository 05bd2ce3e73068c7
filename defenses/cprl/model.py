"""Models with an inserted activation, before their head or after one of their stages."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from iqarena.defenses.base import DoesNotApply
from iqarena.models.base import FeatureModel


class Activation(nn.Module, ABC):
    """Base of activations that split feature maps z (N, C, h, w) into the CPR, which is returned, and the N-CPR."""

    @abstractmethod
    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the fraction of each value that is kept, in [0, 1]; (N, C, 1, 1) or (N, C, h, w)."""


class CPRLModel(FeatureModel):
    """A model whose head gets only the CPR of its last feature maps."""

    def __init__(self, model: FeatureModel, activation: Activation) -> None:
        super().__init__()
        self.model, self.activation = model, activation
        self.info = model.info

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the last feature maps z of the underlying model, CPR and N-CPR together."""
        return self.model.features(images)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the CPR of the last feature maps."""
        cpr: torch.Tensor = self.activation(self.maps(images))
        return cpr

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        return self.model.head(features, count)


class StageWithActivation(nn.Module):
    """A stage of a network followed by an activation."""

    def __init__(self, stage: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.stage, self.activation = stage, activation

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Compute the CPR of the feature maps of the stage."""
        cpr: torch.Tensor = self.activation(self.stage(maps))
        return cpr


def feature_map_shape(model: FeatureModel, after: str = "") -> torch.Size:
    """Return the shape (M, C, h, w) of the output of a stage for a small image; by default, of the last feature maps.

    Raises:
        DoesNotApply: if the model has no such stage, or its output is not feature maps.
    """
    side, shapes = max(model.info.min_size, 64), list[torch.Size]()
    stage = _stage(model, after) if after else None
    hook = stage.register_forward_hook(lambda _, __, maps: shapes.append(maps.shape)) if stage else None
    try:
        with torch.inference_mode():
            shapes.append(model.eval().features(torch.zeros(1, 3, side, side)).shape)
    finally:
        if hook:
            hook.remove()
    if len(shapes[0]) != 4 or (after and len(shapes) != 2):
        raise DoesNotApply(f"{after} of {model.info.name} does not give feature maps once an image")
    return shapes[0]


def insert_activation(model: FeatureModel, activation: Activation, after: str = "") -> FeatureModel:
    """Insert an activation after a stage of the model, or before its head if no stage is named; modifies the model."""
    if not after:
        return CPRLModel(model, activation)
    parent, _, name = after.rpartition(".")
    setattr(model.get_submodule(parent), name, StageWithActivation(_stage(model, after), activation))
    return model


def activation_holder(model: nn.Module) -> CPRLModel | StageWithActivation | None:
    """Return the submodule that holds the activation of a model; None if there is none."""
    return next((part for part in model.modules() if isinstance(part, CPRLModel | StageWithActivation)), None)


def _stage(model: FeatureModel, name: str) -> nn.Module:
    stages: dict[str, nn.Module] = dict(model.named_modules())
    if name not in stages:
        known = ", ".join(stage for stage in stages if stage and stage.count(".") < 2)
        raise DoesNotApply(f"{model.info.name} has no stage {name!r} for an activation; it has {known}")
    return stages[name]


class StraightThrough(Activation):
    """An activation with the gradient of the identity (BPDA, Athalye et al., arXiv 1802.00420)."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the kept fraction of the underlying activation."""
        return self.activation.kept(features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = self.activation(features)
        return features + (kept - features).detach()
