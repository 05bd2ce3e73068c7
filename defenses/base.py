"""The interface of defenses, which turn a model into one that should be more robust."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import ClassVar, Literal

import torch

from iqarena.models.base import QualityModel
from iqarena.models.zoo import card_of, chosen_file, load_weights

Kind = Literal["none", "purification", "architecture", "training", "certified"]


class DoesNotApply(Exception):
    """Raised by `Defense.protect` if a defense does not apply to a model; the cell is skipped with the message as reason."""


class Defense(ABC):
    """A defense: a frozen dataclass of its parameters; the model is passed to its methods.

    Class attributes:
        name: registry name.
        kind: the kind of defense.
        stochastic: whether the protected model draws random numbers (from torch's global stream).
        forwards: forward passes of the underlying model per score; the cost of a filter is not included.
        surrogate_kind: the gradient of an adaptive attacker: exact, of a smooth approximation, or of the identity (BPDA).
        paper: reference.

    Example:
        >>> from iqarena.defenses.purification.jpeg import JPEG
        >>> from iqarena.models.cnniqa import CNNIQA
        >>> defended = JPEG(quality=50).protect(CNNIQA())
        >>> defended(torch.rand(2, 3, 48, 40)).shape
        torch.Size([2])
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    stochastic: ClassVar[bool] = False
    forwards: ClassVar[int] = 1
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "exact"
    paper: ClassVar[str] = ""

    @abstractmethod
    def protect(self, model: QualityModel) -> QualityModel:
        """Return the defended model, which is deployed and scored.

        Raises:
            DoesNotApply: if the defense does not apply to the model.
        """

    def surrogate(self, model: QualityModel) -> QualityModel:
        """Return the model that an adaptive attacker differentiates; the deployed model unless it has no useful gradient."""
        return self.protect(model)


@dataclass(frozen=True)
class TrainedDefense(Defense):
    """A training recipe; `protect` loads weights that were trained with it.

    Attributes:
        weights: a safetensors file, or a label; empty for the weights of the zoo. See `iqarena.models.zoo.chosen_file`.

    Class attributes:
        passes_an_image: forward+backward passes per training image; a partial pass counts as one.
        not_trained: parameters that the weights do not depend on.
    """

    kind: ClassVar[Kind] = "training"
    passes_an_image: ClassVar[int]
    not_trained: ClassVar[tuple[str, ...]] = ("weights",)

    weights: str = ""

    def prepare(self, model: QualityModel) -> QualityModel:
        """Return the network to train: a copy of the model, or a network built around a copy.

        Raises:
            DoesNotApply: if the recipe cannot train this kind of model.
        """
        if not model.info.differentiable:
            raise DoesNotApply(f"{self.name} trains by gradient, and {model.info.name} has none")
        return copy.deepcopy(model)

    @abstractmethod
    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        """Compute the loss, a scalar, of images (N, 3, H, W) and labels (N,) in [0, 1]; `progress` runs from 0 to 1."""

    def losses(
        self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float
    ) -> Iterator[torch.Tensor]:
        """Yield the losses of one batch, each followed by an optimiser step; a single one unless overridden."""
        yield self.loss(model, images, labels, progress)

    def protect(self, model: QualityModel) -> QualityModel:
        path = chosen_file(self.weights, model.info.name, self.name)
        protected = self.prepare(model)
        if not self.weights and not path.is_file():
            raise DoesNotApply(
                f"no trained weights of {self.name} for {model.info.name}; "
                f"make them with `iqarena train --model {model.info.name} --defense {self.name} …`"
            )
        if recipe := card_of(path).get("recipe"):
            defaults = {field.name: field.default for field in fields(self) if field.default is not MISSING}
            trained = asdict(self) | defaults | recipe  # the card may be older than a parameter
            for name, value in asdict(self).items():
                if name not in self.not_trained and trained[name] != value:
                    raise DoesNotApply(
                        f"{path.name} was trained with {name}={trained[name]}, not {value}; train it with {value} first"
                    )
        protected.info = replace(protected.info, weights_sha256=load_weights(protected, path))
        return protected.eval()
