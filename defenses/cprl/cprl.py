"""`cprl`: causal perception inspired representation learning (Wang and Yuan, arXiv 2404.19567), arXiv form.

Our reconstruction from the abstract: no equation, hyper-parameter or table of the paper is public to us. What the
abstract says: a picture has a causal perception representation (CPR), which makes the label and does not change under an
imperceptible perturbation, and a non-causal one (N-CPR), which may; a soft-ranking channel-wise activation extracts the
CPR so that it is sufficient (accurate) and necessary (robust); training is a minimax game based on intervention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from defenses.base import DoesNotApply
from defenses.cprl.activation import RandomMask, SoftRankActivation
from defenses.cprl.model import CPRLModel, StraightThrough
from defenses.training.adversarial import AdversarialTraining
from defenses.training.ball import INNER_STEPS
from defenses.training.loop import inner_attack
from models.base import FeatureModel, QualityModel

SMOOTHER, SHARPER = 4.0, 0.25
"""What the widths of soft rank and mask are multiplied by in a surrogate; the deployed model keeps its own."""


def feature_model(model: QualityModel, name: str) -> FeatureModel:
    """The model, if it shows its last feature maps.

    Raises:
        DoesNotApply: if it does not.
    """
    if not isinstance(model, FeatureModel):
        raise DoesNotApply(f"{name} needs a model with visible feature maps (FeatureModel), and {model.info.name} has none")
    return model


@dataclass(frozen=True)
class CPRL(AdversarialTraining):
    """Soft-rank activation after the last stage, trained by min_θ SF + λ·IV + γ·NC.

    SF (sufficiency): squared error on clean pictures. IV (intervention): the largest squared error inside the ball, by
    PGD. NC (necessity): relu(min(μ, |y − y'|) − |h(CPR) − h(do(CPR := CPR'))|), where CPR' and y' are another picture's.
    With γ = 0 and no mask this is `adversarial-training`, which is why that is what it must be compared with.

    Attributes:
        adversarial_weight: λ; 0 takes the minimax game out, and its inner attack with it.
        necessity_weight: γ; 0 takes necessity out.
        margin: μ, in quality.
        mask: "soft-rank"; or, as controls, "random", a fixed mask of the same size, or "none".
        keep, temperature, sharpness: of the activation, see `SoftRankActivation`.
        mask_seed: of the random mask.
        through: what an adaptive attacker differentiates: the deployed activation ("exact"), one with wider or narrower soft
            edges ("smoother", "sharper"), or none at all ("identity").
    """

    name: ClassVar[str] = "cprl"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.19567 (our reconstruction from the abstract)"
    passes_an_image: ClassVar[int] = INNER_STEPS + 2
    not_trained: ClassVar[tuple[str, ...]] = ("weights", "through")

    necessity_weight: float = 0.1
    margin: float = 0.2
    mask: Literal["soft-rank", "random", "none"] = "soft-rank"
    keep: float = 0.5
    temperature: float = 0.1
    sharpness: float = 0.05
    mask_seed: int = 0
    through: Literal["exact", "smoother", "sharper", "identity"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adversarial_weight == 0:
            object.__setattr__(self, "passes_an_image", 1)  # the clean picture alone
        if not (0 < self.keep < 1 and self.temperature > 0 and self.sharpness > 0 and self.necessity_weight >= 0):
            raise ValueError(
                "cprl: keep must be in (0, 1), temperature and sharpness above 0, necessity_weight not negative"
            )

    def prepare(self, model: QualityModel) -> QualityModel:
        copied = feature_model(super().prepare(model), self.name)
        if self.mask == "none":
            return copied
        if self.mask == "random":
            side = max(copied.info.min_size, 64)
            with torch.inference_mode():
                channels = copied.eval().features(torch.zeros(1, 3, side, side)).shape[1]
            return CPRLModel(copied, RandomMask(self.keep, self.sharpness, channels, self.mask_seed))
        return CPRLModel(copied, SoftRankActivation(self.keep, self.temperature, self.sharpness))

    def surrogate(self, model: QualityModel) -> QualityModel:
        deployed = self.protect(model)
        if self.through == "exact" or not isinstance(deployed, CPRLModel):
            return deployed
        if self.through == "identity":
            deployed.activation = StraightThrough(deployed.activation)
        elif isinstance(deployed.activation, SoftRankActivation):
            width = SMOOTHER if self.through == "smoother" else SHARPER
            deployed.activation = SoftRankActivation(self.keep, self.temperature * width, self.sharpness * width)
        return deployed

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        assert isinstance(model, FeatureModel)
        count, both = len(images), images
        if self.adversarial_weight > 0:
            both = torch.cat([images, inner_attack(model, images, labels, self.ball(progress), INNER_STEPS)])
        scores = model.quality(both).float()
        errors = (scores - labels.repeat(len(both) // count)) ** 2
        total = errors[:count].mean()
        if self.adversarial_weight > 0:
            total = total + self.adversarial_weight * errors[count:].mean()
        if self.necessity_weight > 0:
            # do(C := c'): the CPR of another picture of the batch takes the place of this one's
            effect = (scores[:count] - scores[:count].roll(1, 0)).abs()
            wanted = (labels - labels.roll(1, 0)).abs().clamp(max=self.margin)
            total = total + self.necessity_weight * torch.relu(wanted - effect).mean()
        return total
