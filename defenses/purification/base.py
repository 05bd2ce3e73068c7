"""A purified model: images pass through a filter on their way in."""

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
"""Images (N, 3, H, W) in [0, 1] to images of the same kind."""


class PurifiedModel(QualityModel):
    """``model(purify(images))``; `purify` alone is there for whoever wants to see or measure the purified images."""

    def __init__(self, model: QualityModel, purify: Purifier) -> None:
        super().__init__()
        self.model, self.purify = model, purify
        own = weights_sha256(purify)
        both = own and hashlib.sha256(f"{model.info.weights_sha256} {own}".encode()).hexdigest()
        self.info = replace(model.info, weights_sha256=both) if both else model.info

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.model(self.purify(images))
        return scores


@dataclass(frozen=True)
class Purification(Defense):
    """Base of the filters.

    Class attributes:
        moves_pixels: whether a purified image has another geometry than the image, so that it may only be compared
            with an image that went through the same transform.
    """

    kind: ClassVar[Kind] = "purification"
    moves_pixels: ClassVar[bool] = False

    @abstractmethod
    def purifier(self) -> Purifier:
        """The deployed filter.

        Raises:
            DoesNotApply: where something that it needs is not there.
        """

    def stand_in(self) -> Purifier:
        """The filter that an adaptive attacker differentiates; the deployed one unless that has no useful gradient."""
        return self.purifier()

    def least(self, inner: int) -> int:
        """The least side of an image, in pixels, whose purified one has sides of at least `inner`.

        Raises:
            DoesNotApply: where no image's has.
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
    """A filter that is a network: its output is clamped to [0, 1].

    Args:
        network: from images to images; it is put into eval mode.
        sha256: of its weights.
    """

    def __init__(self, network: nn.Module, sha256: str) -> None:
        super().__init__()
        self.network, self.weights_sha256 = network.eval().requires_grad_(False), sha256

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return clipped(self.network(images))


def clipped(images: torch.Tensor) -> torch.Tensor:
    """Values kept in [0, 1]; what is just 0 or 1 has a gradient, which ``clamp`` gives in some versions of torch only."""
    return images.masked_fill(images < 0, 0).masked_fill(images > 1, 1)


def weights_sha256(purify: Purifier) -> str:
    """Of a filter's weights; empty where it has none."""
    sha256: str = getattr(purify, "weights_sha256", "")
    return sha256


def with_gradient_of(smooth: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The values of `real` with the gradient of `smooth`."""
    return smooth + (real - smooth).detach()


def straight_through(purify: Purifier) -> Purifier:
    """The same filter with the gradient of the identity (BPDA; Athalye, Carlini, Wagner, arXiv 1802.00420)."""
    return lambda images: with_gradient_of(images, purify(images.detach()))
