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
"""That choose the bin which is then tried for a certificate; Cohen et al.'s n₀."""


@dataclass(frozen=True)
class RandomizedSmoothing(Smoothing):
    """Quality falls into ten equal bins or one of two outside them; scored is the middle of the bin with the most votes.

    Bins are half-open. A certificate is the bin, where enough of 1,000 draws fell into it (Clopper-Pearson); where not, it
    abstains: the interval is then the whole range that a score can have.

    Attributes:
        bins: of [0, 1], not counting those below 0 and from 1 on.
    """

    name: ClassVar[str] = "randomized-smoothing"
    paper: ClassVar[str] = "https://arxiv.org/abs/1902.02918"

    bins: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 1:
            raise ValueError(f"{self.name}: bins {self.bins} is below 1")

    def bin_of(self, qualities: torch.Tensor) -> torch.Tensor:
        """Bins from 0, below the range, to `bins` + 1, above it."""
        edges = torch.linspace(0, 1, self.bins + 1, dtype=qualities.dtype, device=qualities.device)
        return torch.bucketize(qualities, edges, right=True)

    def votes(self, qualities: torch.Tensor) -> torch.Tensor:
        """Number of draws in each bin, (bins + 2,)."""
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
        # the upper edge is the next bin's
        return (chosen - 1) / self.bins, math.nextafter(chosen / self.bins, -math.inf)


def share_shown(inside: int, draws: int, risk: float) -> float:
    """Clopper and Pearson's lower bound of a share of which `inside` of `draws` draws were, save for `risk`."""
    return float(stats.beta.ppf(risk, inside, draws - inside + 1)) if inside else 0.0


@dataclass(frozen=True)
class DenoisedRandomizedSmoothing(RandomizedSmoothing):
    """`randomized-smoothing` with a denoiser before the model (Salman et al., NeurIPS 2020).

    Attributes:
        weights: of the denoiser, a safetensors file; empty means those of the defense `denoiser`.
    """

    name: ClassVar[str] = "denoised-randomized-smoothing"
    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01908"

    weights: str = ""

    def under(self, model: QualityModel) -> QualityModel:
        return denoised(model, self.weights)
