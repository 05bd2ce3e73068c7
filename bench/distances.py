"""How far stored pictures are from the clean ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from skimage.metrics import structural_similarity

_LUMA = np.array([0.299, 0.587, 0.114])


def distances(pixels: torch.Tensor, clean: torch.Tensor) -> pd.DataFrame:
    """Distances of stored pictures, both (N, 3, H, W) uint8, one row each.

    linf and l2 in units of [0, 1] over all channels; l0 as the share of pixels with any change; psnr in dB over all
    channels, missing where nothing changed; ssim of the luma (Wang et al. 2004: Gaussian window, σ = 1.5).
    """
    rows = []
    for attacked, before in zip(pixels, clean, strict=True):
        shift = (attacked.double() - before.double()) / 255
        mse = float((shift**2).mean())
        rows.append(
            {
                "linf": float(shift.abs().max()),
                "l2": float(shift.norm()),
                "l0": float((shift != 0).any(dim=0).double().mean()),
                "psnr": 10 * np.log10(1 / mse) if mse > 0 else np.nan,
                "ssim": luma_ssim(attacked, before),
            }
        )
    return pd.DataFrame(rows)


def luma_ssim(attacked: torch.Tensor, clean: torch.Tensor) -> float:
    """SSIM of the lumas of two pictures (3, H, W) uint8 (Wang et al. 2004: Gaussian window, σ = 1.5); scikit-image's."""
    lumas = [(picture.permute(1, 2, 0).numpy().astype(np.float64) / 255) @ _LUMA for picture in (clean, attacked)]
    return float(
        structural_similarity(*lumas, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    )
