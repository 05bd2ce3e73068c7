"""Models with an activation: before their head, which then sees only what it keeps, or after a stage of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from iqarena.defenses.base import DoesNotApply
from iqarena.models.base import FeatureModel


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


class Placed(nn.Module):
    """A stage of a network with an activation behind it."""

    def __init__(self, stage: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.stage, self.activation = stage, activation

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The CPR of the stage's feature maps."""
        cpr: torch.Tensor = self.activation(self.stage(maps))
        return cpr


def maps_of(model: FeatureModel, after: str = "") -> torch.Size:
    """Shape (M, C, h, w) of what a stage makes of a small image: of its last feature maps where no stage is named.

    Raises:
        DoesNotApply: where the model has no such stage, or what leaves it are no feature maps.
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


def placed(model: FeatureModel, activation: Activation, after: str = "") -> FeatureModel:
    """The model with an activation after a stage of its own, or before its head where none is named; worked on in place."""
    if not after:
        return CPRLModel(model, activation)
    parent, _, name = after.rpartition(".")
    setattr(model.get_submodule(parent), name, Placed(_stage(model, after), activation))
    return model


def holder(model: nn.Module) -> CPRLModel | Placed | None:
    """What has the activation of a model; None where there is none."""
    return next((part for part in model.modules() if isinstance(part, CPRLModel | Placed)), None)


def _stage(model: FeatureModel, name: str) -> nn.Module:
    stages: dict[str, nn.Module] = dict(model.named_modules())
    if name not in stages:
        known = ", ".join(stage for stage in stages if stage and stage.count(".") < 2)
        raise DoesNotApply(f"{model.info.name} has no stage {name!r} for an activation; it has {known}")
    return stages[name]


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
