"""Base classes of the bridged ART attacks: the toolbox's estimators for a quality model, and the calls to its attacks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from iqarena.attacks.base import Access, Target
from iqarena.attacks.bridges.library import Head, LeastNorm, LibraryAttack, Losses, margin
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat

_STARTS = 100
"""Number of random images that a decision-based attack tries as starting points."""


class _LossColumn(nn.Module):
    """The losses ℓ as (N, 1), in float32 for any input type of the toolbox."""

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        column: torch.Tensor = self.losses(images)[:, None]
        return column


class _NegativeSum(nn.Module):
    """The training loss −Σℓ, with the `reduction` attribute that the toolbox expects."""

    reduction = "sum"

    def forward(self, predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -predictions.sum()


class _NegativeZ(nn.Module):
    """The loss −z of logits [z/2, −z/2]."""

    reduction = "sum"

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = -2 * logits[:, 0]
        return losses if self.reduction == "none" else losses.sum()


def to_numpy(images: torch.Tensor) -> np.ndarray:
    """Convert images to a NumPy array."""
    array: np.ndarray = images.cpu().numpy()
    return array


def norm_order(threat: Threat) -> float:
    """Return the order of the threat model's norm, ∞ or 2."""
    return np.inf if threat.norm == "linf" else 2


class RegressorAttack(LibraryAttack):
    """Base of the attacks that take a regressor."""

    set_here: ClassVar[tuple[str, ...]] = ("batch_size", "adv_criterion", "loss")

    def regressor(self, target: Target, images: torch.Tensor, objective: Objective) -> Any:
        """Build the toolbox's regressor, whose prediction is the loss ℓ."""
        from art.estimators.regression.pytorch import PyTorchRegressor

        column = _LossColumn(Losses(target, objective, self.access))
        return PyTorchRegressor(
            column,
            _NegativeSum(),
            tuple(images.shape[1:]),
            clip_values=(0.0, 1.0),
            device_type="cpu" if images.device.type == "cpu" else "gpu",
        )


class ClassifierAttack(LibraryAttack):
    """Base of the attacks that take a classifier."""

    set_here: ClassVar[tuple[str, ...]] = ("batch_size", "loss_type")

    @abstractmethod
    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        """Return the default constructor parameters."""

    @abstractmethod
    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the function of ℓ − ℓ₀ that gives z."""

    def transform(self, logits: torch.Tensor) -> torch.Tensor:
        """Convert the logits [z/2, −z/2] to the output that the attack expects."""
        return logits

    def extra_arguments(self, losses: Losses, images: torch.Tensor, objective: Objective) -> dict[str, Any] | None:
        """Return further arguments of `generate`; None if the attack has no starting point."""
        return {}

    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        losses = Losses(target, objective, self.access)
        extra = self.extra_arguments(losses, images, objective)
        if extra is None:
            return images
        head = Head(losses, objective, self.z(), self.transform)
        classes = self.transform(images.new_zeros(1, 2)).shape[1]
        classifier = PyTorchClassifier(
            head,
            _NegativeZ(),
            tuple(images.shape[1:]),
            classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if images.device.type == "cpu" else "gpu",
        )
        attack = getattr(evasion, self.variant)(
            classifier, **(self.options(threat, images) | {"verbose": False} | self.given)
        )
        labels = np.zeros((len(images), classes), dtype=np.float32)
        labels[:, 0] = 1
        return torch.from_numpy(attack.generate(to_numpy(images), y=labels, **extra))


class LeastNormAttack(ClassifierAttack, LeastNorm):
    """Base of the least-norm attacks."""

    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return margin(self.amount)


class DecisionAttack(LeastNormAttack):
    """Base of the decision-based attacks, which start from an image whose quality has moved and use decisions only."""

    access: ClassVar[Access] = "score"

    def extra_arguments(self, losses: Losses, images: torch.Tensor, objective: Objective) -> dict[str, Any] | None:
        # the library's own search has a separate random stream and tries only noise, which rarely raises quality
        wanted = objective.loss(objective.clean) - self.amount
        for image in _starting_images(images):
            if (losses(image) < wanted).all():
                return {"x_adv_init": to_numpy(image)}
        return None


def _starting_images(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield images that may differ much in quality: sharpened and blurred versions, a flat image, noise."""
    blurred = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    for share in (1.0, 4.0, 16.0, -1.0):
        yield (images + share * (images - blurred)).clamp(0, 1)
    yield images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    for _ in range(_STARTS):
        yield torch.rand(images.shape).to(images)
