"""Smoothing: the score of an image is a vote over the model's scores of many noisy copies of it.

The certificate for infinitely many draws is a theorem (Cohen, Rosenfeld, Kolter, ICML 2019, arXiv 1902.02918): if a property
holds for a proportion p of the noisy copies of an image, then it holds for at least a proportion Φ(Φ⁻¹(p) − ε/σ) of those of
an image perturbed by a length ε. The deployed score is a vote of a few draws, so a certificate here requires a proportion
large enough that a majority of these few draws agrees, up to the stated risk; papers require one half, which certifies a
vote over infinitely many draws that cannot be computed (``ideal``).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from scipy import stats

from iqarena.defenses.certified.base import Certificate, CertifiedDefense, checked_radius
from iqarena.models.base import QualityModel


def noisy_qualities(model: QualityModel, image: torch.Tensor, draws: int, sigma: float, batch: int) -> torch.Tensor:
    """Compute the qualities (draws,) in float64 of an image (3, H, W) under Gaussian noise, at most `batch` copies at once.

    The noise is not clipped, as in the papers. It comes from torch's global stream copy by copy, so that `batch` affects
    only memory and speed. No gradient.
    """
    qualities = []
    with torch.no_grad():
        for start in range(0, draws, batch):
            count = min(batch, draws - start)
            noise = torch.stack([torch.randn(image.shape, device=image.device) for _ in range(count)])
            qualities.append(model.quality(image + sigma * noise))
    return torch.cat(qualities).double()


def quorum(draws: int, risk: float) -> float:
    """Return the least probability of agreement of one draw for which more than half of `draws` agree, up to `risk`.

    P(Bin(n, p) ≥ k) is the distribution function of Beta(k, n − k + 1) at p.
    """
    majority = draws // 2 + 1
    return float(stats.beta.ppf(1 - risk, majority, draws - majority + 1))


def share_needed(agree: float, steps: float) -> float:
    """Return the proportion of an image's noisy copies that guarantees `agree` for any perturbed image; `steps` is ε/σ."""
    return float(stats.norm.cdf(stats.norm.ppf(agree) + steps))


def draws_needed(share: float, risk: float) -> float:
    """Return the number of agreeing draws that proves a proportion p, up to `risk`: pⁿ ≤ risk; infinite for p = 1."""
    return math.ceil(math.log(risk) / math.log(share)) if share < 1 else math.inf


class SmoothedModel(QualityModel):
    """A model whose quality in [0, 1] is a vote over new draws from torch's global stream; image by image, no gradient."""

    def __init__(self, model: QualityModel, defense: Smoothing) -> None:
        super().__init__()
        self.model, self.defense = model, defense
        self.info = replace(model.info, score_range=(0.0, 1.0), higher_is_better=True, differentiable=False, stochastic=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        defense = self.defense
        votes = [
            defense.vote(noisy_qualities(self.model, image, defense.draws, defense.sigma, defense.batch)).to(images)
            for image in images
        ]
        return torch.stack(votes)


class MeanOfDraws(QualityModel):
    """The mean quality over a few new draws, with a gradient: the surrogate of the smoothed model (EOT)."""

    def __init__(self, model: QualityModel, draws: int, sigma: float) -> None:
        super().__init__()
        self.model, self.draws, self.sigma = model, draws, sigma
        self.info = replace(model.info, score_range=(0.0, 1.0), higher_is_better=True, stochastic=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        qualities = [self.model.quality(images + self.sigma * torch.randn_like(images)) for _ in range(self.draws)]
        return torch.stack(qualities).mean(0)


@dataclass(frozen=True)
class Smoothing(CertifiedDefense):
    """Base of the smoothed defenses.

    A query to the deployed model costs `draws` forward passes of the underlying model. The query count of an attack, which
    counts queries to the deployed model, does not show this; the measured seconds do.

    Attributes:
        sigma: standard deviation of the noise, with pixels in [0, 1].
        draws: noisy copies per score.
        certify_draws: noisy copies per certificate.
        confidence: confidence of a certificate, for one image, in (0, 1).
        surrogate_draws: noisy copies that a gradient is averaged over.
        batch: noisy copies per batch.
    """

    stochastic: ClassVar[bool] = True
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "smooth"

    sigma: float = 0.12
    draws: int = 100
    certify_draws: int = 1000
    confidence: float = 0.999
    surrogate_draws: int = 4
    batch: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "forwards", self.draws)
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"{self.name}: sigma {self.sigma:g} is not above 0")
        if not 0 < self.confidence < 1:
            raise ValueError(f"{self.name}: confidence {self.confidence:g} is outside (0, 1)")
        for field in ("draws", "certify_draws", "surrogate_draws", "batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{self.name}: {field} {getattr(self, field)} is below 1")

    def under(self, model: QualityModel) -> QualityModel:
        """Return the model that scores noisy copies.

        Raises:
            DoesNotApply: if it cannot be built.
        """
        return model

    @abstractmethod
    def vote(self, qualities: torch.Tensor) -> torch.Tensor:
        """Return the deployed quality, a scalar, from the qualities of the noisy copies (draws,)."""

    @abstractmethod
    def interval(self, model: QualityModel, image: torch.Tensor, share: float, risk: float) -> tuple[float, float]:
        """Return bounds that at least a proportion `share` of the qualities of noisy copies respects, each up to `risk`."""

    def protect(self, model: QualityModel) -> QualityModel:
        return SmoothedModel(self.under(model), self)

    def surrogate(self, model: QualityModel) -> QualityModel:
        return MeanOfDraws(self.under(model), self.surrogate_draws, self.sigma)

    def certify(self, model: QualityModel, images: torch.Tensor, radius: float, ideal: bool = False) -> Certificate:
        """Certify as in `CertifiedDefense`; with `ideal`, for the vote over infinitely many draws, as in the papers.

        Raises:
            ValueError: also if `certify_draws` is too small for the radius and the confidence.
        """
        steps = checked_radius(self.name, radius) / self.sigma
        risk = 1 - self.confidence
        if not ideal:
            risk /= 2  # one half for the certificate's draws, one for the score's
        share = share_needed(0.5 if ideal else quorum(self.draws, self.risk_a_side(risk)), steps)
        needed = draws_needed(share, self.risk_a_side(risk))
        if self.certify_draws < needed:
            enough = f"certify_draws={needed:.10g} or a larger sigma" if needed < math.inf else "a larger sigma"
            raise ValueError(
                f"{self.name}: {self.certify_draws} draws cannot certify a radius of {radius:g} with confidence "
                f"{self.confidence:g}; it takes {enough}"
            )
        scorer = self.under(model)
        intervals = [self.interval(scorer, image, share, risk) for image in images]
        lower, upper = torch.tensor(intervals, dtype=torch.float64).view(-1, 2).T
        return Certificate(lower, upper, radius, self.confidence)

    def risk_a_side(self, risk: float) -> float:
        """Return the part of the risk for each way in which a certificate can be wrong."""
        return risk
