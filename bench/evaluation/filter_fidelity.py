"""How much of an image a filter leaves, and how alike a clean and an attacked image are once both went through it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from iqarena.bench.inference.isolation import seeded
from iqarena.bench.inference.target import frozen
from iqarena.bench.metrics.image_distances import luma_ssim
from iqarena.defenses.purification.base import PurifiedModel

_LEAST = 11
"""Side of SSIM's window."""


def filter_fidelity(
    model: PurifiedModel, moves_pixels: bool, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], seeds: Iterable[int]
) -> dict[str, float]:
    """Means over images of PSNR (dB, over all channels) and SSIM (of the lumas, images rounded to 8 bit).

    With D the deployed filter, x a clean image and x′ the attacked one: ``clean`` compares D(x) with x and ``attacked``
    D(x′) with x, which makes sense only where the filter keeps every pixel in its place; ``same_transform`` compares D(x′)
    with D(x), both under the same random draw, and always does.

    Args:
        model: the deployed model.
        moves_pixels: whether the filter changes the geometry; the first two are then NaN.
        pairs: stored images (3, H, W) uint8, clean and attacked.
        seeds: of the filter's draws, one a pair.

    Returns:
        ``psnr_…`` and ``ssim_…`` of the three; of PSNR the equal images are left out, where it is infinite. NaN where
        nothing is left to average, and of images too small for SSIM.
    """
    rows = []
    with frozen(model), torch.inference_mode():
        for (clean, attacked), seed in zip(pairs, seeds, strict=True):
            before, after = (_purified(model, image, seed) for image in (clean, attacked))
            compared = {"same_transform": (after, before)}
            if not moves_pixels:
                compared |= {"clean": (before, clean), "attacked": (after, clean)}
            rows.append({name: (_psnr(*pair), _ssim(*pair)) for name, pair in compared.items()})
    found = {}
    for name in ("clean", "attacked", "same_transform"):
        values = np.array([row.get(name, (math.nan, math.nan)) for row in rows], dtype=np.float64).reshape(-1, 2)
        for measure, column in zip(("psnr", "ssim"), values.T, strict=True):
            finite = column[np.isfinite(column)]
            found[f"{measure}_{name}"] = float(finite.mean()) if len(finite) else math.nan
    return found


def _purified(model: PurifiedModel, image: torch.Tensor, seed: int) -> torch.Tensor:
    with seeded(seed):
        made: torch.Tensor = model.purify(image[None].float() / 255)[0].clamp(0, 1)
    return made.mul(255).round().to(torch.uint8).cpu()


def _psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    error = float(((one.double() - other.cpu().double()) / 255).square().mean())
    return -10 * math.log10(error) if error > 0 else math.inf


def _ssim(one: torch.Tensor, other: torch.Tensor) -> float:
    return luma_ssim(one, other.cpu()) if min(one.shape[1:]) >= _LEAST else math.nan
