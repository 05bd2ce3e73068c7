"""`none`: the undefended model, and the plain training recipe of undefended weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.base import DoesNotApply, Kind, TrainedDefense
from iqarena.models.base import QualityModel


@dataclass(frozen=True)
class NoDefense(TrainedDefense):
    """No defense. As a training recipe: the model's own loss on clean images, one pass per image."""

    name: ClassVar[str] = "none"
    kind: ClassVar[Kind] = "none"
    passes_an_image: ClassVar[int] = 1

    def protect(self, model: QualityModel) -> QualityModel:
        if self.weights:
            raise DoesNotApply("none has no weights; name them with the model, as model[weights=FILE]")
        return model

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        return model.training_loss(images, labels)
