"""Image fidelity of purification filters: PSNR and SSIM of images before and after the filter."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from iqarena.bench.inference.isolation import seeded
from iqarena.bench.inference.target import frozen
from iqarena.bench.metrics.image_distances import luma_ssim
from iqarena.defenses.purification.base import PurifiedModel

_WINDOW = 11
"""Side of the SSIM window in pixels."""


def filter_fidelity(
    model: PurifiedModel, moves_pixels: bool, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], seeds: Iterable[int]
) -> dict[str, float]:
    """Compute the mean PSNR (dB, over all channels) and SSIM (of the lumas, images rounded to 8 bit) over the images.

    With D the deployed filter, x a clean image and x′ the attacked one, ``clean`` compares D(x) with x, and ``attacked``
    compares D(x′) with x; both are meaningful only if the filter does not move pixels. ``same_transform`` compares D(x′)
    with D(x), both under the same random draw, and is always meaningful.

    Args:
        model: the deployed model.
        moves_pixels: whether the filter changes the geometry; then `clean` and `attacked` are NaN.
        pairs: stored images (3, H, W) uint8, clean and attacked.
        seeds: seeds of the filter's random draws, one per pair.

    Returns:
        ``psnr_…`` and ``ssim_…`` of the three comparisons. Images without any difference, whose PSNR is infinite, are left
        out of the mean PSNR, and images too small for SSIM out of the mean SSIM; a mean over no images is NaN.
    """
    rows = []
    with frozen(model), torch.inference_mode():
        for (clean, attacked), seed in zip(pairs, seeds, strict=True):
            before, after = (_purified(model, image, seed) for image in (clean, attacked))
            compared = {"same_transform": (after, before)}
            if not moves_pixels:
                compared |= {"clean": (before, clean), "attacked": (after, clean)}
            rows.append({name: (_psnr(*pair), _ssim(*pair)) for name, pair in compared.items()})
    means = {}
    for name in ("clean", "attacked", "same_transform"):
        values = np.array([row.get(name, (math.nan, math.nan)) for row in rows], dtype=np.float64).reshape(-1, 2)
        for measure, column in zip(("psnr", "ssim"), values.T, strict=True):
            finite = column[np.isfinite(column)]
            means[f"{measure}_{name}"] = float(finite.mean()) if len(finite) else math.nan
    return means


def _purified(model: PurifiedModel, image: torch.Tensor, seed: int) -> torch.Tensor:
    with seeded(seed):
        purified: torch.Tensor = model.purify(image[None].float() / 255)[0].clamp(0, 1)
    return purified.mul(255).round().to(torch.uint8).cpu()


def _psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    error = float(((image.double() - reference.cpu().double()) / 255).square().mean())
    return -10 * math.log10(error) if error > 0 else math.inf


def _ssim(image: torch.Tensor, reference: torch.Tensor) -> float:
    return luma_ssim(image, reference.cpu()) if min(image.shape[1:]) >= _WINDOW else math.nan
