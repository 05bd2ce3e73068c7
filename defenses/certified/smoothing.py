"""Smoothing: the score of an image is a vote of the model's scores of many noisy copies of it.

What the vote of endless draws cannot do under a change of length ε is a theorem (Cohen, Rosenfeld, Kolter, ICML 2019, arXiv
1902.02918): what a share p of the noisy copies of an image has, at least a share Φ(Φ⁻¹(p) − ε/σ) of the changed image's
has. What is deployed is a vote of a few draws, so here a certificate asks for as large a share as makes these few agree,
too, save for the stated risk; papers ask for one half, which certifies a vote that nobody can take (``ideal``).
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
    """Qualities (draws,) in float64 of an image (3, H, W) under Gaussian noise, no graph; at most `batch` copies at once.

    The noise is not clipped, as in the papers. It comes from torch's global stream copy by copy, so that `batch` changes
    nothing but memory and speed.
    """
    found = []
    with torch.no_grad():
        for start in range(0, draws, batch):
            count = min(batch, draws - start)
            noise = torch.stack([torch.randn(image.shape, device=image.device) for _ in range(count)])
            found.append(model.quality(image + sigma * noise))
    return torch.cat(found).double()


def quorum(draws: int, risk: float) -> float:
    """The least probability of one draw to agree that makes more than half of `draws` agree, save for `risk`.

    P(Bin(n, p) ≥ k) is the distribution function of Beta(k, n − k + 1) at p.
    """
    most = draws // 2 + 1
    return float(stats.beta.ppf(1 - risk, most, draws - most + 1))


def share_needed(agree: float, steps: float) -> float:
    """Share of the noisy copies of an image that leaves a share `agree` of those of any changed one; steps is ε/σ."""
    return float(stats.norm.cdf(stats.norm.ppf(agree) + steps))


def draws_needed(share: float, risk: float) -> float:
    """Draws that must all agree to show a share, save for `risk`: pⁿ ≤ risk; infinite for a share of 1."""
    return math.ceil(math.log(risk) / math.log(share)) if share < 1 else math.inf


class SmoothedModel(QualityModel):
    """Qualities in [0, 1] by a vote over fresh draws from torch's global stream; images one by one; no gradient."""

    def __init__(self, model: QualityModel, defense: Smoothing) -> None:
        super().__init__()
        self.model, self.defense = model, defense
        self.info = replace(model.info, score_range=(0.0, 1.0), higher_is_better=True, differentiable=False, stochastic=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        made = self.defense
        votes = [
            made.vote(noisy_qualities(self.model, image, made.draws, made.sigma, made.batch)).to(images) for image in images
        ]
        return torch.stack(votes)


class MeanOfDraws(QualityModel):
    """The mean quality over a few fresh draws, with its gradient: what an attacker of the smoothed model climbs (EOT)."""

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

    One question to the deployed model costs `draws` forward passes of the model under it, which an attack's own count,
    questions to what is deployed, does not show; the measured seconds do.

    Attributes:
        sigma: standard deviation of the noise, pixels being in [0, 1].
        draws: noisy copies that a score is a vote of.
        certify_draws: noisy copies that a certificate rests on.
        confidence: of a certificate, for one image, in (0, 1).
        surrogate_draws: noisy copies that one gradient is averaged over.
        batch: noisy copies at once.
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
        """The model that scores noisy copies.

        Raises:
            DoesNotApply: where it cannot be made.
        """
        return model

    @abstractmethod
    def vote(self, qualities: torch.Tensor) -> torch.Tensor:
        """The deployed quality, a scalar, from those of the noisy copies (draws,)."""

    @abstractmethod
    def interval(self, model: QualityModel, image: torch.Tensor, share: float, risk: float) -> tuple[float, float]:
        """Where at least a share of the noisy copies of an image (3, H, W) lies on either side, save for `risk`."""

    def protect(self, model: QualityModel) -> QualityModel:
        return SmoothedModel(self.under(model), self)

    def surrogate(self, model: QualityModel) -> QualityModel:
        return MeanOfDraws(self.under(model), self.surrogate_draws, self.sigma)

    def certify(self, model: QualityModel, images: torch.Tensor, radius: float, ideal: bool = False) -> Certificate:
        """See `CertifiedDefense`; with `ideal`, of the vote of endless draws, as in the papers.

        Raises:
            ValueError: also where `certify_draws` are too few for the radius and the confidence.
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
        found = [self.interval(scorer, image, share, risk) for image in images]
        lower, upper = torch.tensor(found, dtype=torch.float64).view(-1, 2).T
        return Certificate(lower, upper, radius, self.confidence)

    def risk_a_side(self, risk: float) -> float:
        """What of a risk falls to each way that a certificate can be wrong."""
        return risk
