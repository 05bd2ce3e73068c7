"""Natural scene statistics, which distortions change: the features of `niqe` and `brisque`.

Mittal, Moorthy, Bovik, TIP 2012; Mittal, Soundararajan, Bovik, SPL 2013; the asymmetric generalised Gaussian is from Lasmar,
Stitou, Berthoumieu, ICIP 2009. All functions are differentiable. Unlike the published code, the luma is not rounded to whole
levels, nor the exponent α to a thousandth.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional

_LUMA = (0.2989, 0.5870, 0.1140)
_SIDE, _SIGMA = 7, 7 / 6
_SHIFTS = ((0, 1), (1, 0), (1, 1), (-1, 1))  # offsets (rows, columns) of the neighbours in the products

ALPHA_MIN, ALPHA_MAX, _STEP = 0.2, 10.0, 0.001
"""Range and step of the exponents α in the lookup table."""

_TINY = 1e-12
"""Keeps quotients and roots of flat areas, and their gradients, finite; smaller values are zero up to rounding."""


def luma(images: torch.Tensor) -> torch.Tensor:
    """Compute the luma (N, 1, H, W) in [0, 255] of images (N, 3, H, W) in [0, 1], in float64.

    In float32, the values of flat areas would have random signs, and the statistics depend on signs.
    """
    return (images.double() * images.new_tensor(_LUMA, dtype=torch.float64).view(1, 3, 1, 1)).sum(1, keepdim=True) * 255


def halved(gray: torch.Tensor) -> torch.Tensor:
    """Downscale to half the height and width, rounded up, by a cubic kernel with antialiasing."""
    size = [-(-side // 2) for side in gray.shape[2:]]
    return functional.interpolate(gray, size, mode="bicubic", antialias=True, align_corners=False)


def mscn(gray: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the mean-subtracted, contrast-normalised values (I − μ) / (σ + 1), and σ, of (N, 1, H, W) in [0, 255].

    μ and σ are taken over a 7×7 Gaussian window of deviation 7/6, with replicated edges.
    """
    centred = gray - 128  # does not change the result, but squares of smaller numbers lose less precision
    mean = _blurred(centred)
    variance = _blurred(centred * centred) - mean * mean
    # by rounding, flat areas have a variance of about ±10⁻¹²; the floor keeps the gradient of the root finite
    deviation = variance.clamp(min=1e-9).sqrt()
    return (centred - mean) / (deviation + 1), deviation


def _blurred(gray: torch.Tensor) -> torch.Tensor:
    taps = torch.exp(-((torch.arange(_SIDE, dtype=torch.float64) - _SIDE // 2) ** 2) / (2 * _SIGMA**2))
    taps = (taps / taps.sum()).to(gray)
    padded = functional.pad(gray, (_SIDE // 2,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))


def neighbour_products(values: torch.Tensor) -> list[torch.Tensor]:
    """Compute the products (B, H, W) with the left, the upper and two diagonal neighbours, with circular boundaries."""
    return [values * torch.roll(values, shift, dims=(1, 2)) for shift in _SHIFTS]


def fit_ggd(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit the exponent α and variance (B,) of a zero-mean generalised Gaussian to the moments of values (B, …)."""
    flat = values.flatten(1)
    square = (flat**2).mean(dim=1)
    return exponent(flat.abs().mean(dim=1) ** 2 / (square + _TINY)), square


def fit_aggd(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Fit the exponent α and the deviations below and above zero, (B,) each, of an asymmetric generalised Gaussian."""
    flat = values.flatten(1)
    below, above = (_one_sided(flat, side) for side in (-1, 1))
    skew = below / above
    ratio = flat.abs().mean(dim=1) ** 2 / ((flat**2).mean(dim=1) + _TINY)
    return exponent(ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2), below, above


def _one_sided(flat: torch.Tensor, side: int) -> torch.Tensor:
    """Compute the root mean square of the values on one side of zero."""
    part = (side * flat).clamp(min=0)
    return ((part**2).sum(dim=1) / (part > _TINY).sum(dim=1).clamp(min=1) + _TINY).sqrt()


def exponent(ratio: torch.Tensor) -> torch.Tensor:
    """Find the α in [0.2, 10] for which Γ(2/α)² / (Γ(1/α)·Γ(3/α)) is `ratio`, the squared mean over the mean square."""
    alphas, ratios = _table()
    alphas, ratios = alphas.to(ratio), ratios.to(ratio)
    index = torch.searchsorted(ratios, ratio.detach().contiguous()).clamp(1, len(ratios) - 1)
    low, high = ratios[index - 1], ratios[index]
    # linear interpolation in the table is within 10⁻⁷ of the inverse, and has its gradient
    return (alphas[index - 1] + _STEP * (ratio - low) / (high - low)).clamp(ALPHA_MIN, ALPHA_MAX)


@functools.cache
def _table() -> tuple[torch.Tensor, torch.Tensor]:
    alphas = torch.arange(round(ALPHA_MIN / _STEP), round(ALPHA_MAX / _STEP) + 1, dtype=torch.float64) * _STEP
    logarithm = 2 * torch.lgamma(2 / alphas) - torch.lgamma(1 / alphas) - torch.lgamma(3 / alphas)
    return alphas, logarithm.exp()


def spread(alpha: torch.Tensor) -> torch.Tensor:
    """Compute √(Γ(1/α) / Γ(3/α)), the ratio of the scale β to the deviation of a (one-sided) distribution of exponent α."""
    return ((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2).exp()


def mean_of(alpha: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Compute the mean of the asymmetric generalised Gaussian: (β_r − β_l)·Γ(2/α) / Γ(1/α)."""
    return (above - below) * spread(alpha) * (torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha)).exp()
