"""`cprl`: causal perception inspired representation learning (Wang and Yuan, arXiv 2404.19567), arXiv form.

Our reconstruction from the abstract: no equation, hyper-parameter or table of the paper is public to us. What the
abstract says: a picture has a causal perception representation (CPR), which makes the label and does not change under an
imperceptible perturbation, and a non-causal one (N-CPR), which may; a soft-ranking channel-wise activation extracts the
CPR so that it is sufficient (accurate) and necessary (robust); training is a minimax game based on intervention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from defenses.base import DoesNotApply
from defenses.cprl.activation import SoftRankActivation
from defenses.training.adversarial import INNER_STEPS, AdversarialTraining
from defenses.training.loop import inner_attack
from models.base import FeatureModel, QualityModel


class CPRLModel(FeatureModel):
    """A model whose head sees only the CPR of its last feature maps."""

    def __init__(self, model: FeatureModel, activation: SoftRankActivation) -> None:
        super().__init__()
        self.model, self.activation = model, activation
        self.info = model.info

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The CPR of the last feature maps."""
        cpr: torch.Tensor = self.activation(self.model.features(images))
        return cpr

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        return self.model.head(features, count)


@dataclass(frozen=True)
class CPRL(AdversarialTraining):
    """Soft-rank activation after the last stage, trained by min_θ SF + λ·IV + γ·NC.

    SF (sufficiency): squared error on clean pictures. IV (intervention): the largest squared error inside the ball, by
    PGD. NC (necessity): relu(min(μ, |y − y'|) − |h(CPR) − h(do(CPR := CPR'))|), where CPR' and y' are another picture's.
    With γ = 0 and no activation this is `adversarial-training`, which is why that is what it must be compared with.

    Attributes:
        necessity_weight: γ.
        margin: μ, in quality.
        keep, temperature, sharpness: of the activation, see `SoftRankActivation`.
    """

    name: ClassVar[str] = "cprl"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.19567 (our reconstruction from the abstract)"
    passes_an_image: ClassVar[int] = INNER_STEPS + 2

    necessity_weight: float = 0.1
    margin: float = 0.2
    keep: float = 0.5
    temperature: float = 0.1
    sharpness: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.keep < 1 and self.temperature > 0 and self.sharpness > 0 and self.necessity_weight >= 0):
            raise ValueError(
                "cprl: keep must be in (0, 1), temperature and sharpness above 0, necessity_weight not negative"
            )

    def prepare(self, model: QualityModel) -> QualityModel:
        copied = super().prepare(model)
        if not isinstance(copied, FeatureModel):
            raise DoesNotApply(
                f"cprl needs a model with visible feature maps (FeatureModel), and {model.info.name} has none"
            )
        return CPRLModel(copied, SoftRankActivation(self.keep, self.temperature, self.sharpness))

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        assert isinstance(model, FeatureModel)
        epsilon = self.epsilon * min(1.0, (progress + 0.01) / self.ramp)
        attacked = inner_attack(model, images, labels, epsilon, INNER_STEPS)
        cpr = model.features(torch.cat([images, attacked]))
        scores = model.to_quality(model.head(cpr, 2 * len(images))).float()
        sufficiency, intervention = ((scores - labels.repeat(2)) ** 2).chunk(2)
        # do(C := c'): the CPR of another picture of the batch takes the place of this one's
        swapped = scores[: len(images)].roll(1, 0)
        effect = (scores[: len(images)] - swapped).abs()
        necessity = torch.relu((labels - labels.roll(1, 0)).abs().clamp(max=self.margin) - effect)
        return sufficiency.mean() + self.adversarial_weight * intervention.mean() + self.necessity_weight * necessity.mean()
