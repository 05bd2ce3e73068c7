"""`median-smoothing` (Chiang et al., NeurIPS 2020, arXiv 2007.03730), also with a denoiser (DMS-IQA, arXiv 2411.12575)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import stats

from iqarena.defenses.certified.smoothing import Smoothing, noisy_qualities
from iqarena.defenses.purification.base import PurifiedModel
from iqarena.defenses.purification.denoiser import Denoiser
from iqarena.models.base import QualityModel


def upper_rank(draws: int, share: float, risk: float) -> int:
    """Return the least q such that the q-th smallest of `draws` draws is at least their `share`-quantile, up to `risk`.

    It is smaller only if q or more draws are below the quantile, and their number is at most binomial. A result above
    `draws` means that there is no such q.
    """
    return int(stats.binom.ppf(1 - risk, draws, share)) + 1


@dataclass(frozen=True)
class MedianSmoothing(Smoothing):
    """The median of the model's qualities of noisy copies, certified by two order statistics of 1,000 copies.

    Without `ideal`, the interval is for the deployed median of `draws` draws and therefore wider than in the paper. The
    setting of the paper and of related work (σ 0.12, N 1,000, ε 0.05, 0.001 per side) is
    ``certify(model, images, 0.05, ideal=True)`` at confidence 0.998.
    """

    name: ClassVar[str] = "median-smoothing"
    paper: ClassVar[str] = "https://arxiv.org/abs/2007.03730"

    def vote(self, qualities: torch.Tensor) -> torch.Tensor:
        return qualities.quantile(0.5)

    def risk_a_side(self, risk: float) -> float:
        return risk / 2  # the quality may be too high or too low

    def interval(self, model: QualityModel, image: torch.Tensor, share: float, risk: float) -> tuple[float, float]:
        qualities = noisy_qualities(model, image, self.certify_draws, self.sigma, self.batch)
        if qualities.isnan().any():
            return -math.inf, math.inf
        high = upper_rank(self.certify_draws, share, self.risk_a_side(risk))
        ordered = qualities.sort().values
        return float(ordered[self.certify_draws - high]), float(ordered[high - 1])


@dataclass(frozen=True)
class DenoisedMedianSmoothing(MedianSmoothing):
    """`median-smoothing` with a denoiser before the model, so that the model gets images similar to its training data.

    Attributes:
        weights: weights of the denoiser, a safetensors file; empty for those of the defense `denoiser`.
    """

    name: ClassVar[str] = "denoised-median-smoothing"
    paper: ClassVar[str] = "https://arxiv.org/abs/2411.12575"

    weights: str = ""

    def under(self, model: QualityModel) -> QualityModel:
        return denoised(model, self.weights)


def denoised(model: QualityModel, weights: str) -> QualityModel:
    """Return the model with the denoiser in front of it.

    Raises:
        DoesNotApply: if there are no weights.
    """
    return PurifiedModel(model, Denoiser(weights).purifier())
