"""`niqe`: distance of image statistics from those of pristine images (Mittal, Soundararajan, Bovik, SPL 2013)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch

from iqarena.models.base import FittedModel, ModelInfo
from iqarena.models.nss import fit_aggd, halved, luma, mean_of, mscn, neighbour_products, spread

SIDE = 96
"""Side of the blocks, at full size."""

SHARP = 0.75
"""Blocks of a pristine image are used if their mean deviation is above this fraction of the largest one."""

_FEATURES = 36


class NIQE(FittedModel):
    """Distance of two Gaussians in 36 dimensions: of the 96×96 blocks of an image, and of sharp blocks of pristine images.

    The features of a block are statistics of its contrast-normalised luma and of products of neighbours, at two scales. No
    ratings are used. Differentiable; a remainder below 96 pixels at the right and bottom is ignored. The raw score is 0 for
    pristine images and increases with distortion.
    """

    info = ModelInfo(
        "niqe",
        score_range=(2, 30),
        higher_is_better=False,
        min_size=SIDE,
        licence="MIT",
        paper="https://doi.org/10.1109/LSP.2012.2227726",
    )
    in_zoo = True
    needs_labels: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(_FEATURES, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(_FEATURES, dtype=torch.float64))
        self.mean: torch.Tensor
        self.covariance: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features, _ = block_features(images)
        mean, covariance = gaussian(features)
        away = mean - self.mean.double()
        between = (self.covariance.double() + covariance) / 2
        square: torch.Tensor = (away * torch.linalg.solve(between, away)).sum(dim=1)
        return square.clamp(min=1e-12).sqrt().to(images.dtype)

    def fit(self, images: Iterable[tuple[torch.Tensor, float]]) -> dict[str, float | int | str]:
        chosen = []
        count = 0
        for image, _ in images:
            if min(image.shape[1:]) < SIDE:
                raise ValueError(f"an image is {image.shape[2]}×{image.shape[1]}; give ones of {SIDE}×{SIDE} or more")
            features, sharpness = block_features(image[None])
            chosen.append(features[0, sharpness[0] > SHARP * sharpness.max()])
            count += 1
        blocks = torch.cat(chosen)
        if len(blocks) <= _FEATURES:
            raise ValueError(f"{len(blocks)} sharp blocks in {count} images are too few for {_FEATURES} features")
        mean, covariance = gaussian(blocks[None])
        self.mean.copy_(mean[0])
        self.covariance.copy_(covariance[0])
        return {"sharp_blocks": len(blocks)}


def gaussian(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the means (N, F) and covariances (N, F, F) of features (N, B, F); zero covariance for a single block."""
    mean = features.mean(dim=1)
    away = features - mean[:, None]
    return mean, away.mT @ away / max(features.shape[1] - 1, 1)


def block_features(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the features (N, B, 36) and mean deviations (N, B) of the 96×96 blocks of images (N, 3, H, W) in [0, 1]."""
    height, width = (side // SIDE * SIDE for side in images.shape[2:])
    gray = luma(images[..., :height, :width])
    values, deviation = mscn(gray)
    half, _ = mscn(halved(gray))
    features = torch.cat([_features(_blocks(values, SIDE)), _features(_blocks(half, SIDE // 2))], dim=1)
    sharpness = _blocks(deviation, SIDE).mean(dim=(1, 2))
    return features.view(len(images), -1, _FEATURES), sharpness.view(len(images), -1)


def _blocks(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Split maps (N, 1, H, W) into blocks (N·B, side, side), row by row."""
    return maps.unfold(2, side, side).unfold(3, side, side).reshape(-1, side, side)


def _features(blocks: torch.Tensor) -> torch.Tensor:
    """Compute the 18 features of each block (B, side, side)."""
    alpha, below, above = fit_aggd(blocks)
    statistics = [alpha, (below + above) / 2 * spread(alpha)]
    for product in neighbour_products(blocks):
        alpha, below, above = fit_aggd(product)
        scale = spread(alpha)
        statistics += [alpha, mean_of(alpha, below, above), below * scale, above * scale]
    return torch.stack(statistics, dim=1)
