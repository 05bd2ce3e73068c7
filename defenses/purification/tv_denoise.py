"""`tv-denoise`: total variation denoising (Rudin, Osher, Fatemi 1992), solved by Chambolle's projections (2004).

The image u that has the least ‖u − x‖²/2 + weight·Σ|∇u|, channel by channel. Deployed is scikit-image's solver, which
stops where its energy does. The surrogate gives the same image, with the gradient of the first `STEPS` of the same
iterations in torch, |∇u| made smooth at 0.
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
"""Of the surrogate's gradient: three are a twentieth weaker under attack, thirty cost a second an image."""

_TAU = 1 / 4  # the step for which the projections converge in two dimensions


def real_tv(images: torch.Tensor, weight: float) -> torch.Tensor:
    """scikit-image's solver; (N, 3, H, W) to the same; no gradient."""
    arrays = images.detach().permute(0, 2, 3, 1).cpu().numpy()
    made = [denoise_tv_chambolle(array, weight=weight, channel_axis=-1) for array in arrays]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).to(images)


def differentiable_tv(images: torch.Tensor, weight: float, steps: int = STEPS) -> torch.Tensor:
    """The first `steps` iterations; (N, 3, H, W) to the same."""
    down = across = torch.zeros_like(images)  # the dual field
    made = images
    for _ in range(steps):
        # differences to the next pixel, 0 at the end
        slope_down = functional.pad(made.diff(dim=2), (0, 0, 0, 1))
        slope_across = functional.pad(made.diff(dim=3), (0, 1))
        length = (slope_down.square() + slope_across.square() + 1e-12).sqrt()
        shorter = 1 + _TAU / weight * length
        down, across = (down - _TAU * slope_down) / shorter, (across - _TAU * slope_across) / shorter
        made = (
            images - down - across + functional.pad(down, (0, 0, 1, 0))[:, :, :-1] + functional.pad(across, (1, 0))[..., :-1]
        )
    return made


@dataclass(frozen=True)
class TVDenoise(Purification):
    """Total variation denoising.

    Attributes:
        weight: of the variation against the squared error, above 0; pixels are in [0, 1].
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
