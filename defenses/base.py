"""What a defense is here: something that turns a model into one that should be harder to fool."""

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
    """Raised by `Defense.protect` where a defense does not fit a model; the message says why, and the cell is skipped."""


class Defense(ABC):
    """A defense: a frozen dataclass of its parameters; the model arrives at call time.

    Class attributes:
        name: registry name.
        kind: what it changes.
        stochastic: whether the protected model draws random numbers (from torch's global stream).
        forwards: passes of the model under it that one score costs; what a filter takes itself is not among them.
        surrogate_kind: how an adaptive attacker gets a gradient: exact, smooth stand-in or identity (BPDA).
        paper: where it comes from.

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
        """What is deployed and scored.

        Raises:
            DoesNotApply: where the defense does not fit the model.
        """

    def surrogate(self, model: QualityModel) -> QualityModel:
        """What an adaptive attacker differentiates; the deployed model itself unless that has no useful gradient."""
        return self.protect(model)


@dataclass(frozen=True)
class TrainedDefense(Defense):
    """A recipe for training a model; `protect` swaps in weights that the recipe made.

    Attributes:
        weights: a safetensors file, or a label; nothing means the zoo's. See `iqarena.models.zoo.chosen_file`.

    Class attributes:
        passes_an_image: forward+backward passes that one training image costs; what is less than a pass counts as one.
    """

    kind: ClassVar[Kind] = "training"
    passes_an_image: ClassVar[int]
    not_trained: ClassVar[tuple[str, ...]] = ("weights",)  # parameters that the weights do not depend on

    weights: str = ""

    def prepare(self, model: QualityModel) -> QualityModel:
        """The network to be trained: a copy of the model, or one built around a copy.

        Raises:
            DoesNotApply: where the recipe cannot train this kind of model.
        """
        if not model.info.differentiable:
            raise DoesNotApply(f"{self.name} trains by gradient, and {model.info.name} has none")
        return copy.deepcopy(model)

    @abstractmethod
    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        """The recipe: a scalar from images (N, 3, H, W), labels (N,) in [0, 1] and progress from 0 to 1."""

    def losses(
        self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float
    ) -> Iterator[torch.Tensor]:
        """The scalars of one batch, each followed by a step of the weights; one unless a recipe takes more."""
        yield self.loss(model, images, labels, progress)

    def protect(self, model: QualityModel) -> QualityModel:
        path = chosen_file(self.weights, model.info.name, self.name)
        protected = self.prepare(model)
        if not self.weights and not path.is_file():
            raise DoesNotApply(
                f"no trained weights of {self.name} for {model.info.name}; "
                f"make them with `iqarena train --model {model.info.name} --defense {self.name} …`"
            )
        if said := card_of(path).get("recipe"):
            usual = {field.name: field.default for field in fields(self) if field.default is not MISSING}
            trained = asdict(self) | usual | said  # a card may be older than a parameter
            for name, value in asdict(self).items():
                if name not in self.not_trained and trained[name] != value:
                    raise DoesNotApply(
                        f"{path.name} was trained with {name}={trained[name]}, not {value}; train it so first"
                    )
        protected.info = replace(protected.info, weights_sha256=load_weights(protected, path))
        return protected.eval()
