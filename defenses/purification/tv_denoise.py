"""`tv-denoise`: total variation denoising (Rudin, Osher, Fatemi 1992), solved by Chambolle's projections (2004).

The image u minimises ‖u − x‖²/2 + weight·Σ|∇u|, channel by channel. The deployed filter is scikit-image's solver, which
stops when its energy converges. The surrogate gives the same image, with the gradient of the first `STEPS` of the same
iterations in torch, with |∇u| smoothed at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from skimage.restoration import denoise_tv_chambolle
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier, with_gradient_of

STEPS = 10
"""Iterations of the surrogate's gradient: attacks with three are 5 % weaker, and thirty take a second per image."""

_TAU = 1 / 4  # the step size for which the projections converge in two dimensions


def real_tv(images: torch.Tensor, weight: float) -> torch.Tensor:
    """Denoise by scikit-image's solver; (N, 3, H, W) to the same, without a gradient."""
    arrays = images.detach().permute(0, 2, 3, 1).cpu().numpy()
    denoised = [denoise_tv_chambolle(array, weight=weight, channel_axis=-1) for array in arrays]
    return torch.from_numpy(np.stack(denoised)).permute(0, 3, 1, 2).to(images)


def differentiable_tv(images: torch.Tensor, weight: float, steps: int = STEPS) -> torch.Tensor:
    """Run the first `steps` iterations; (N, 3, H, W) to the same."""
    down = across = torch.zeros_like(images)  # the dual field
    denoised = images
    for _ in range(steps):
        # forward differences, 0 at the end
        slope_down = functional.pad(denoised.diff(dim=2), (0, 0, 0, 1))
        slope_across = functional.pad(denoised.diff(dim=3), (0, 1))
        length = (slope_down.square() + slope_across.square() + 1e-12).sqrt()
        shorter = 1 + _TAU / weight * length
        down, across = (down - _TAU * slope_down) / shorter, (across - _TAU * slope_across) / shorter
        denoised = (
            images - down - across + functional.pad(down, (0, 0, 1, 0))[:, :, :-1] + functional.pad(across, (1, 0))[..., :-1]
        )
    return denoised


@dataclass(frozen=True)
class TVDenoise(Purification):
    """Total variation denoising.

    Attributes:
        weight: weight of the variation relative to the squared error, above 0; pixels are in [0, 1].
    """

    name: ClassVar[str] = "tv-denoise"
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "smooth"
    paper: ClassVar[str] = "https://doi.org/10.1023/B:JMIV.0000011325.36760.1e"

    weight: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 100:
            raise ValueError(f"{self.name}: weight {self.weight} is outside (0, 100]")

    def purifier(self) -> Purifier:
        return lambda images: real_tv(images, self.weight)

    def stand_in(self) -> Purifier:
        return lambda images: with_gradient_of(differentiable_tv(images, self.weight), real_tv(images, self.weight))
