"""Base of the purification defenses, which filter images before they are scored."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from iqarena.defenses.base import Defense, Kind
from iqarena.models.base import QualityModel

Purifier = Callable[[torch.Tensor], torch.Tensor]
"""Maps images (N, 3, H, W) in [0, 1] to filtered images in [0, 1]."""


class PurifiedModel(QualityModel):
    """The model ``model(purify(images))``; its attribute `purify` gives the purified images."""

    def __init__(self, model: QualityModel, purify: Purifier) -> None:
        super().__init__()
        self.model, self.purify = model, purify
        filter_sha256 = weights_sha256(purify)
        combined = filter_sha256 and hashlib.sha256(f"{model.info.weights_sha256} {filter_sha256}".encode()).hexdigest()
        self.info = replace(model.info, weights_sha256=combined) if combined else model.info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.model(self.purify(images))
        return scores


@dataclass(frozen=True)
class Purification(Defense):
    """Base of the filters.

    Class attributes:
        moves_pixels: whether the filter changes the geometry of the image, so that a purified image may only be compared
            with an image that was transformed in the same way.
    """

    kind: ClassVar[Kind] = "purification"
    moves_pixels: ClassVar[bool] = False

    @abstractmethod
    def purifier(self) -> Purifier:
        """Return the deployed filter.

        Raises:
            DoesNotApply: if something that it needs is missing.
        """

    def stand_in(self) -> Purifier:
        """Return the filter that an adaptive attacker differentiates; the deployed one unless it has no useful gradient."""
        return self.purifier()

    def least(self, inner: int) -> int:
        """Return the minimum side of an image, in pixels, for which the purified image has sides of at least `inner`.

        Raises:
            DoesNotApply: if there is none.
        """
        return inner

    def protect(self, model: QualityModel) -> QualityModel:
        return self._purified(model, self.purifier())

    def surrogate(self, model: QualityModel) -> QualityModel:
        return self._purified(model, self.stand_in())

    def _purified(self, model: QualityModel, purify: Purifier) -> QualityModel:
        purified = PurifiedModel(model, purify)
        purified.info = replace(purified.info, min_size=self.least(model.info.min_size))
        return purified


class Network(nn.Module):
    """A filter that is a network, with its output clamped to [0, 1].

    Args:
        network: maps images to images; it is put into eval mode.
        sha256: hash of its weights.
    """

    def __init__(self, network: nn.Module, sha256: str) -> None:
        super().__init__()
        self.network, self.weights_sha256 = network.eval().requires_grad_(False), sha256

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return clipped(self.network(images))


def clipped(images: torch.Tensor) -> torch.Tensor:
    """Clip values to [0, 1]; values of exactly 0 or 1 keep their gradient, unlike with ``clamp`` in some torch versions."""
    return images.masked_fill(images < 0, 0).masked_fill(images > 1, 1)


def weights_sha256(purify: Purifier) -> str:
    """Return the hash of a filter's weights; empty if it has none."""
    sha256: str = getattr(purify, "weights_sha256", "")
    return sha256


def with_gradient_of(smooth: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the values of `real` with the gradient of `smooth`."""
    return smooth + (real - smooth).detach()


def straight_through(purify: Purifier) -> Purifier:
    """Return the same filter with the gradient of the identity (BPDA; Athalye, Carlini, Wagner, arXiv 1802.00420)."""
    return lambda images: with_gradient_of(images, purify(images.detach()))
