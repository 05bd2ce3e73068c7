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
    """The least q such that the q-th smallest of `draws` draws is no less than their `share`-quantile, save for `risk`.

    It is less only if q or more draws are below the quantile, and their number is at most binomial. Above `draws`: none is.
    """
    return int(stats.binom.ppf(1 - risk, draws, share)) + 1


@dataclass(frozen=True)
class MedianSmoothing(Smoothing):
    """The median of the model's qualities of noisy copies; certified by two order statistics of 1,000 of them.

    Without `ideal`, the interval is for the deployed median of `draws` draws and therefore wider than in the paper. The
    paper's (and the peers': σ 0.12, N 1,000, ε 0.05, 0.001 a side) is ``certify(model, images, 0.05, ideal=True)`` at
    confidence 0.998.
    """

    name: ClassVar[str] = "median-smoothing"
    paper: ClassVar[str] = "https://arxiv.org/abs/2007.03730"

    def vote(self, qualities: torch.Tensor) -> torch.Tensor:
        return qualities.quantile(0.5)

    def risk_a_side(self, risk: float) -> float:
        return risk / 2  # too high, too low

    def interval(self, model: QualityModel, image: torch.Tensor, share: float, risk: float) -> tuple[float, float]:
        qualities = noisy_qualities(model, image, self.certify_draws, self.sigma, self.batch)
        if qualities.isnan().any():
            return -math.inf, math.inf
        high = upper_rank(self.certify_draws, share, self.risk_a_side(risk))
        ordered = qualities.sort().values
        return float(ordered[self.certify_draws - high]), float(ordered[high - 1])


@dataclass(frozen=True)
class DenoisedMedianSmoothing(MedianSmoothing):
    """`median-smoothing` with a denoiser before the model, so that the model sees images of the kind that it knows.

    Attributes:
        weights: of the denoiser, a safetensors file; empty means those of the defense `denoiser`.
    """

    name: ClassVar[str] = "denoised-median-smoothing"
    paper: ClassVar[str] = "https://arxiv.org/abs/2411.12575"

    weights: str = ""

    def under(self, model: QualityModel) -> QualityModel:
        return denoised(model, self.weights)


def denoised(model: QualityModel, weights: str) -> QualityModel:
    """The model behind the denoiser.

    Raises:
        DoesNotApply: where there are no weights.
    """
    return PurifiedModel(model, Denoiser(weights).purifier())
