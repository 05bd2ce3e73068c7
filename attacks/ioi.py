"""`ioi`: one sign step, limited to high frequencies and textured areas (Shumitskaya et al., ICML 2024, arXiv 2403.05955)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.best import Best
from iqarena.attacks.descent import steepest
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Norm, Threat

_LEAST_VARIATION = 0.01
"""Fraction of the largest variation below which areas are not changed."""
_FURTHEST, _NEAREST = 8.0, 0.25
"""Range of scales of the linf perturbation that are tried, in units of the ball's size before clipping."""


def variation(images: torch.Tensor) -> torch.Tensor:
    """Compute the blending mask, (N, 3, H, W) in [0, 1]: the square root of the normalised local deviation-to-mean ratio."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    mean = functional.avg_pool2d(padded, 3, 1)
    deviation = functional.avg_pool2d((padded - 0.5) ** 2, 3, 1) - (mean - 0.5) ** 2
    ratio = deviation.clamp(min=0).sqrt() / mean.clamp(min=1 / 255)
    ratio = ratio / ratio.flatten(1).amax(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
    return torch.where(ratio < _LEAST_VARIATION, 0, ratio).sqrt()


def without_strongest(shift: torch.Tensor, images: torch.Tensor, share: float) -> torch.Tensor:
    """Remove from perturbations the frequencies that are strongest in each channel of the images."""
    strength = torch.fft.rfft2(images).abs()
    kept = round(share * strength[0, 0].numel())
    if kept < 1:
        return shift
    threshold = strength.flatten(2).topk(kept, dim=2).values[..., -1, None, None]
    rest: torch.Tensor = torch.fft.irfft2(torch.fft.rfft2(shift) * (strength < threshold), s=shift.shape[2:])
    return rest


@dataclass(frozen=True)
class IOI(Attack):
    """One sign step without the image's strongest frequencies, weighted by local variation; the best of several lengths.

    x + m·H(x′ − x), where x′ is the sign step, H removes the frequencies that are strongest in x, and m is the mask: the
    authors' blend of x and x′, written as a perturbation. Their length is fixed; here the whole ball is used, or less if
    that gains more.

    Attributes:
        looks: number of lengths that are tried, one forward pass each; logarithmically spaced.
        share: fraction of the frequencies of each channel that count as strongest.
    """

    name: ClassVar[str] = "ioi"
    access: ClassVar[Access] = "gradient"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "ssim")
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.05955"

    looks: int = 6
    share: float = 0.07

    def __post_init__(self) -> None:
        if self.looks < 1 or not 0 <= self.share < 1:
            raise ValueError(f"{self.name}: looks must be at least 1 and share in [0, 1)")

    @property
    def passes(self) -> tuple[int, int]:
        return self.looks + 1, 1

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        left = target.queries_left
        looks = self.looks if left is None else min(self.looks, left - 1)
        best = Best(images, objective.loss(objective.clean))
        if looks < 1:
            return best.images
        _, gradient = target.quality_and_grad(images, objective.loss)
        shift = -torch.nan_to_num(gradient).sign()
        shift = variation(images) * without_strongest(shift, images, self.share)
        shift = shift / shift.flatten(1).abs().amax(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        furthest = 1.0
        if threat.norm == "linf":
            shift, furthest = threat.size * shift, _FURTHEST
        elif threat.norm == "l2":
            shift = threat.size * steepest(shift, "l2")
        else:
            shift = threat.project(images + shift / 2, images) - images  # from far outside, projected to the boundary
        for look in range(looks):
            scale = furthest * (_NEAREST / furthest) ** (look / max(looks - 1, 1))
            stored = threat.snap(images + scale * shift, images)
            best.offer(stored, objective.loss(target.quality(stored)))
        return best.images
