"""Distances between stored images and clean images."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

Plane = NDArray[np.float64]

_LUMA = np.array([0.299, 0.587, 0.114])
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales of MS-SSIM, from full size to a sixteenth."""
_REACH = 5  # radius of the SSIM window, which has 11 pixels
MS_SSIM_SIDE = (2 * _REACH + 1) * 2 ** (len(_SCALES) - 1)
"""Minimum height and width at which the window fits into the smallest scale: 176."""
_C1, _C2 = 0.01**2, 0.03**2


def distances(pixels: torch.Tensor, clean: torch.Tensor) -> pd.DataFrame:
    """Compute the distances of stored images from the clean images, both (N, 3, H, W) uint8, one row per image.

    The columns are linf and l2, over all channels, for values in [0, 1]; l0, the share of changed pixels; psnr in dB over
    all channels, missing if nothing changed; ssim of the luma (Wang et al. 2004: Gaussian window, σ = 1.5); and ms_ssim,
    likewise of the luma, missing below 176×176.
    """
    rows = []
    for attacked, before in zip(pixels, clean, strict=True):
        shift = (attacked.numpy().astype(np.float64) - before.numpy()) / 255
        squares = float(np.square(shift).sum())
        mse = squares / shift.size
        ssim, ms_ssim = similarities(attacked, before)
        rows.append(
            {
                "linf": float(np.abs(shift).max()),
                "l2": math.sqrt(squares),
                "l0": float(shift.any(axis=0).mean()),
                "psnr": 10 * np.log10(1 / mse) if mse > 0 else np.nan,
                "ssim": ssim,
                "ms_ssim": ms_ssim,
            }
        )
    return pd.DataFrame(rows)


def luma_ssim(attacked: torch.Tensor, clean: torch.Tensor) -> float:
    """Compute the SSIM of the lumas of two images (3, H, W) uint8 by scikit-image.

    Parameters are those of Wang et al. 2004: Gaussian window, σ = 1.5.
    """
    lumas = [_luma(image) for image in (clean, attacked)]
    return float(
        structural_similarity(*lumas, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    )


def similarities(attacked: torch.Tensor, clean: torch.Tensor) -> tuple[float, float]:
    """Compute SSIM and multi-scale SSIM of the lumas of two images (3, H, W) uint8.

    The first equals `luma_ssim`, and is computed by other code, as a by-product of the second. MS-SSIM (Wang, Simoncelli,
    Bovik, Asilomar 2003) is Π csᵢ^wᵢ over five scales, each downsampled from the previous one by averaging 2×2 pixels, with
    the luminance term at the smallest scale; cs is the mean of contrast × structure over the windows inside the image, at
    least 0. NaN if the window does not fit: below 11×11, or below 176×176 for MS-SSIM.
    """
    x, y = _luma(clean), _luma(attacked)
    if min(x.shape) <= 2 * _REACH:
        return float("nan"), float("nan")
    structure, luminance = _terms(x, y)
    ssim = float((structure * luminance).mean())
    if min(x.shape) < MS_SSIM_SIDE:
        return ssim, float("nan")
    multi = 1.0
    for scale, weight in enumerate(_SCALES):
        if scale > 0:
            x, y = _half(x), _half(y)
            structure, luminance = _terms(x, y)
        term = structure if scale < len(_SCALES) - 1 else structure * luminance
        multi *= max(float(term.mean()), 0.0) ** weight
    return ssim, multi


def _luma(image: torch.Tensor) -> Plane:
    return np.asarray((image.permute(1, 2, 0).numpy().astype(np.float64) / 255) @ _LUMA)


def _half(plane: Plane) -> Plane:
    """Downsample a plane by averaging 2×2 pixels; an odd last row or column is dropped."""
    height, width = (side // 2 for side in plane.shape)
    return np.asarray(plane[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3)))


def _terms(x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """Compute contrast × structure and luminance of every window inside the image."""
    mean_x, mean_y, square_x, square_y, product = _smooth(np.stack([x, y, x * x, y * y, x * y]))
    variances = (square_x - mean_x**2) + (square_y - mean_y**2)
    structure = (2 * (product - mean_x * mean_y) + _C2) / (variances + _C2)
    return structure, (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)


def _smooth(planes: Plane) -> Plane:
    """Blur planes (K, H, W), and keep the pixels whose window is inside the image."""
    blurred = ndimage.gaussian_filter(planes, sigma=(0, 1.5, 1.5), radius=(0, _REACH, _REACH))
    return np.asarray(blurred[:, _REACH:-_REACH, _REACH:-_REACH])
