"""`randomized-smoothing` of score bins (Cohen, Rosenfeld, Kolter, ICML 2019, arXiv 1902.02918), also with a denoiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import stats

from iqarena.defenses.certified.median import denoised
from iqarena.defenses.certified.smoothing import Smoothing, noisy_qualities
from iqarena.models.base import QualityModel

SELECTION_DRAWS = 100
"""Draws that select the bin to certify, n₀ of Cohen et al."""


@dataclass(frozen=True)
class RandomizedSmoothing(Smoothing):
    """Majority vote over bins: ten equal bins of quality and two outside them; the score is the centre of the winning bin.

    Bins are half-open. The certificate is the bin if enough of 1,000 draws fall into it (Clopper-Pearson); otherwise the
    defense abstains, and the interval is the whole range of possible scores.

    Attributes:
        bins: number of bins of [0, 1], without those below 0 and from 1 on.
    """

    name: ClassVar[str] = "randomized-smoothing"
    paper: ClassVar[str] = "https://arxiv.org/abs/1902.02918"

    bins: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 1:
            raise ValueError(f"{self.name}: bins {self.bins} is below 1")

    def bin_of(self, qualities: torch.Tensor) -> torch.Tensor:
        """Return the bin of each quality, from 0, below the range, to `bins` + 1, above it."""
        edges = torch.linspace(0, 1, self.bins + 1, dtype=qualities.dtype, device=qualities.device)
        return torch.bucketize(qualities, edges, right=True)

    def votes(self, qualities: torch.Tensor) -> torch.Tensor:
        """Count the draws in each bin, (bins + 2,)."""
        return torch.bincount(self.bin_of(qualities), minlength=self.bins + 2)

    def vote(self, qualities: torch.Tensor) -> torch.Tensor:
        if qualities.isnan().any():
            return qualities.new_tensor(math.nan)
        return (self.votes(qualities).argmax() - 0.5) / self.bins

    def interval(self, model: QualityModel, image: torch.Tensor, share: float, risk: float) -> tuple[float, float]:
        selecting = noisy_qualities(model, image, SELECTION_DRAWS, self.sigma, self.batch)
        chosen = int(self.votes(selecting).argmax())
        qualities = noisy_qualities(model, image, self.certify_draws, self.sigma, self.batch)
        if selecting.isnan().any() or qualities.isnan().any():
            return -math.inf, math.inf
        inside = int(self.votes(qualities)[chosen])
        if share_shown(inside, self.certify_draws, self.risk_a_side(risk)) < share:
            return -1 / self.bins, 1 + 1 / self.bins
        # the upper edge belongs to the next bin
        return (chosen - 1) / self.bins, math.nextafter(chosen / self.bins, -math.inf)


def share_shown(inside: int, draws: int, risk: float) -> float:
    """Compute the Clopper-Pearson lower bound of a proportion of which `inside` of `draws` draws were, up to `risk`."""
    return float(stats.beta.ppf(risk, inside, draws - inside + 1)) if inside else 0.0


@dataclass(frozen=True)
class DenoisedRandomizedSmoothing(RandomizedSmoothing):
    """`randomized-smoothing` with a denoiser before the model (Salman et al., NeurIPS 2020).

    Attributes:
        weights: weights of the denoiser, a safetensors file; empty for those of the defense `denoiser`.
    """

    name: ClassVar[str] = "denoised-randomized-smoothing"
    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01908"

    weights: str = ""

    def under(self, model: QualityModel) -> QualityModel:
        return denoised(model, self.weights)
