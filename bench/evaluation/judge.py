"""The check of attacked images: they are stored as 8-bit images, and only stored images are verified and scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from iqarena.attacks.threat import Threat
from iqarena.bench.metrics.image_distances import luma_ssim


@dataclass(frozen=True)
class Stored:
    """Attacked images as stored, with the faults of the attack's output.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        left_ball: (N,) bool; whether the attack's output was outside the threat model, and was projected.
        not_finite: (N,) bool; whether it contained NaN or infinities, and the clean image was stored instead.
    """

    pixels: torch.Tensor
    left_ball: torch.Tensor
    not_finite: torch.Tensor


def quantize(attacked: torch.Tensor, clean: torch.Tensor, threat: Threat) -> Stored:
    """Project an attack's output onto the threat model, and round it to 8 bit towards the clean image.

    Args:
        attacked: output of the attack, (N, 3, H, W) in [0, 1].
        clean: the clean images, same shape, uint8.
        threat: the threat model.

    Example:
        >>> clean = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
        >>> stored = quantize(clean / 255 + 9 / 255, clean, Threat("linf", 2 / 255))
        >>> int(stored.pixels.max()), bool(stored.left_ball[0])
        (102, True)
    """
    start = clean.float() / 255
    not_finite = ~torch.isfinite(attacked).flatten(1).all(dim=1)
    attacked = torch.where(not_finite.view(-1, 1, 1, 1), start, attacked.float())
    left_ball = ~threat.holds(attacked, start)
    shift = (threat.project(attacked, start) - start) * 255
    pixels = (clean.float() + threat.whole_levels(shift, start)).clamp(0, 255).to(torch.uint8)
    return Stored(pixels, left_ball, not_finite)


def inside_threat(pixels: torch.Tensor, clean: torch.Tensor, threat: Threat) -> torch.Tensor:
    """Check for each stored image whether it is inside the threat model, from its pixels alone, in float64; (N,) bool.

    The size is deliberately computed independently of `iqarena.attacks.threat`: the two must agree without sharing code.

    Example:
        >>> clean = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
        >>> [bool(inside_threat(clean + levels, clean, Threat("linf", 2 / 255))) for levels in (2, 3)]
        [True, False]
    """
    return torch.tensor([_size(a, b, threat) <= threat.size * (1 + 1e-9) for a, b in zip(pixels, clean, strict=True)])


def _size(attacked: torch.Tensor, clean: torch.Tensor, threat: Threat) -> float:
    """Compute the size of a perturbation in the norm of the threat model."""
    if threat.norm == "ssim":
        return 1 - luma_ssim(attacked, clean)
    shift = (attacked.numpy().astype(np.float64) - clean.numpy().astype(np.float64)) / 255
    if threat.norm == "linf":
        return float(np.abs(shift).max())
    if threat.norm == "l2":
        return float(np.sqrt((shift**2).sum()))
    rows, columns = np.nonzero(shift.any(axis=0))
    if threat.norm == "l0" or not len(rows):
        return len(rows) / int(shift[0].size)
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1
    return side**2 / int(shift[0].size)
