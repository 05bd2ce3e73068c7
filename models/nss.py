"""Statistics of natural scenes, which distortions upset: what `niqe` and `brisque` look at.

Mittal, Moorthy, Bovik, TIP 2012; Mittal, Soundararajan, Bovik, SPL 2013; the asymmetric generalised Gaussian is of Lasmar,
Stitou, Berthoumieu, ICIP 2009. Everything is differentiable. What the published code rounds is not rounded here: the luma
to whole levels, the exponent α to a thousandth.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional

_LUMA = (0.2989, 0.5870, 0.1140)
_SIDE, _SIGMA = 7, 7 / 6
_SHIFTS = ((0, 1), (1, 0), (1, 1), (-1, 1))  # to the neighbours that a value is multiplied with: rows, columns

LEAST, MOST, _STEP = 0.2, 10.0, 0.001
"""Between these exponents α is looked for."""

_TINY = 1e-12
"""Keeps quotients and roots of flat areas, and their gradients, finite; what is smaller is zero with rounding errors."""


def luma(images: torch.Tensor) -> torch.Tensor:
    """Luma (N, 1, H, W) in [0, 255] of images (N, 3, H, W) in [0, 1], in float64.

    In float32 the values of flat areas would have signs by chance, and signs are counted.
    """
    return (images.double() * images.new_tensor(_LUMA, dtype=torch.float64).view(1, 3, 1, 1)).sum(1, keepdim=True) * 255


def halved(gray: torch.Tensor) -> torch.Tensor:
    """Half the height and width, rounded up, by a cubic kernel with antialiasing."""
    size = [-(-side // 2) for side in gray.shape[2:]]
    return functional.interpolate(gray, size, mode="bicubic", antialias=True, align_corners=False)


def mscn(gray: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (I − μ) / (σ + 1), mean-subtracted and contrast-normalised, and σ; (N, 1, H, W) in [0, 255].

    μ and σ are under a 7×7 Gaussian window of deviation 7/6; edges are repeated outwards.
    """
    centred = gray - 128  # changes neither, and squares of smaller numbers lose less
    mean = _blurred(centred)
    variance = _blurred(centred * centred) - mean * mean
    # rounding leaves flat areas a variance of some 10⁻¹², above or below zero; the floor keeps the root's gradient finite
    deviation = variance.clamp(min=1e-9).sqrt()
    return (centred - mean) / (deviation + 1), deviation


def _blurred(gray: torch.Tensor) -> torch.Tensor:
    taps = torch.exp(-((torch.arange(_SIDE, dtype=torch.float64) - _SIDE // 2) ** 2) / (2 * _SIGMA**2))
    taps = (taps / taps.sum()).to(gray)
    padded = functional.pad(gray, (_SIDE // 2,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))


def neighbour_products(values: torch.Tensor) -> list[torch.Tensor]:
    """Products (B, H, W) with the left, the upper and two diagonal neighbours; at an edge, with those opposite."""
    return [values * torch.roll(values, shift, dims=(1, 2)) for shift in _SHIFTS]


def fit_ggd(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Exponent α and variance (B,) of the generalised Gaussian with the moments of values (B, …) around zero."""
    flat = values.flatten(1)
    square = (flat**2).mean(dim=1)
    return exponent(flat.abs().mean(dim=1) ** 2 / (square + _TINY)), square


def fit_aggd(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Exponent α and deviations below and above zero, (B,) each, of an asymmetric generalised Gaussian of values (B, …)."""
    flat = values.flatten(1)
    below, above = (_one_sided(flat, side) for side in (-1, 1))
    skew = below / above
    ratio = flat.abs().mean(dim=1) ** 2 / ((flat**2).mean(dim=1) + _TINY)
    return exponent(ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2), below, above


def _one_sided(flat: torch.Tensor, side: int) -> torch.Tensor:
    """Root of the mean square of the values on one side of zero."""
    some = (side * flat).clamp(min=0)
    return ((some**2).sum(dim=1) / (some > _TINY).sum(dim=1).clamp(min=1) + _TINY).sqrt()


def exponent(ratio: torch.Tensor) -> torch.Tensor:
    """The α in [0.2, 10] for which Γ(2/α)² / (Γ(1/α)·Γ(3/α)) is `ratio`, the squared mean over the mean square."""
    alphas, ratios = _table()
    alphas, ratios = alphas.to(ratio), ratios.to(ratio)
    place = torch.searchsorted(ratios, ratio.detach().contiguous()).clamp(1, len(ratios) - 1)
    low, high = ratios[place - 1], ratios[place]
    # a straight line between neighbours of the table is within 10⁻⁷ of the inverse, and has its gradient
    return (alphas[place - 1] + _STEP * (ratio - low) / (high - low)).clamp(LEAST, MOST)


@functools.cache
def _table() -> tuple[torch.Tensor, torch.Tensor]:
    alphas = torch.arange(round(LEAST / _STEP), round(MOST / _STEP) + 1, dtype=torch.float64) * _STEP
    logarithm = 2 * torch.lgamma(2 / alphas) - torch.lgamma(1 / alphas) - torch.lgamma(3 / alphas)
    return alphas, logarithm.exp()


def spread(alpha: torch.Tensor) -> torch.Tensor:
    """√(Γ(1/α) / Γ(3/α)): the scale β of a (one-sided) distribution of exponent α over its deviation."""
    return ((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2).exp()


def mean_of(alpha: torch.Tensor, below: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
    """Mean of the asymmetric generalised Gaussian: (β_r − β_l)·Γ(2/α) / Γ(1/α)."""
    return (above - below) * spread(alpha) * (torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha)).exp()
