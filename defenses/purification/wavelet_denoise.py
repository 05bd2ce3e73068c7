"""`wavelet-denoise`: shrinkage of Haar wavelet coefficients by BayesShrink (Chang, Yu, Vetterli, IEEE TIP 2000).

Each sub-band d is soft-thresholded at σ²/√(mean d² − σ²), with σ = median|d|/0.6745 of the finest diagonal band's
coefficients that are not 0, channel by channel, on ⌊log₂ shorter side⌋ − 3 levels, at least one. This is the default of
scikit-image's ``denoise_wavelet``, which needs PyWavelets and has no gradient. Exactly differentiable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.stats import norm
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier, clipped

_NORMAL = float(norm.ppf(0.75))
_ZERO = 1e-6  # threshold for zero; coefficients of 8-bit images are multiples of 1/510, up to rounding


def _split(maps: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Split (N, 3, H, W) into its half-size approximation and three detail bands, the diagonal one last (a Haar step)."""
    even = functional.pad(maps, (0, maps.shape[3] % 2, 0, maps.shape[2] % 2), mode="replicate")
    a, b, c, d = even[:, :, ::2, ::2], even[:, :, ::2, 1::2], even[:, :, 1::2, ::2], even[:, :, 1::2, 1::2]
    return (a + b + c + d) / 2, [(a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2]


def _joined(approximation: torch.Tensor, bands: list[torch.Tensor], height: int, width: int) -> torch.Tensor:
    """Invert `_split` for maps of the given size."""
    s, (x, y, z) = approximation, bands
    four = torch.stack([s + x + y + z, s - x + y - z, s + x - y - z, s - x - y + z], dim=2) / 2
    whole: torch.Tensor = functional.pixel_shuffle(four.flatten(1, 2), 2)
    return whole[:, :, :height, :width]


def _noise_level(band: torch.Tensor) -> torch.Tensor:
    """Estimate σ (N, 3, 1, 1) of a band (N, 3, h, w); 0 if the band is 0 everywhere."""
    size = band.abs().flatten(2)
    nonzero = [[channel[channel > _ZERO] for channel in image] for image in size]
    medians = [[torch.quantile(c, 0.5) if len(c) else c.new_zeros(()) for c in image] for image in nonzero]
    return torch.stack([torch.stack(image) for image in medians])[:, :, None, None] / _NORMAL


def _shrunk(band: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Apply BayesShrink to a band."""
    variance = sigma.square()
    signal = band.square().mean(dim=(2, 3), keepdim=True) - variance
    threshold = variance / signal.clamp(min=torch.finfo(band.dtype).eps).sqrt()
    return band.sign() * functional.relu(band.abs() - threshold)


def wavelet_denoised(images: torch.Tensor, sigma: float | None) -> torch.Tensor:
    """Denoise images (N, 3, H, W); `sigma` is that of `WaveletDenoise`."""
    levels = max(int(math.log2(min(images.shape[2:]))) - 3, 1)
    maps, details, sizes = images, [], []
    for _ in range(levels):
        sizes.append(maps.shape[2:])
        maps, bands = _split(maps)
        details.append(bands)
    level = _noise_level(details[0][-1]) if sigma is None else images.new_full((1, 1, 1, 1), sigma)
    for bands, (height, width) in zip(reversed(details), reversed(sizes), strict=True):
        maps = _joined(maps, [_shrunk(band, level) for band in bands], height, width)
    return clipped(maps)


@dataclass(frozen=True)
class WaveletDenoise(Purification):
    """Shrinkage of Haar wavelet coefficients.

    Attributes:
        sigma: standard deviation of the noise, of pixels in [0, 1]; by default estimated from each channel.
    """

    name: ClassVar[str] = "wavelet-denoise"
    paper: ClassVar[str] = "https://doi.org/10.1109/83.862633"

    sigma: float | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None and not 0 < self.sigma <= 1:
            raise ValueError(f"{self.name}: sigma {self.sigma} is outside (0, 1]")

    def purifier(self) -> Purifier:
        return lambda images: wavelet_denoised(images, self.sigma)
