"""`cprl`: causal perception inspired representation learning (Wang and Yuan, arXiv 2404.19567), arXiv form.

Our reconstruction from the abstract: the equations, hyper-parameters and tables of the paper are not available to us.
According to the abstract, an image has a causal perception representation (CPR), which determines the label and does not
change under an imperceptible perturbation, and a non-causal one (N-CPR), which may change; a soft-ranking channel-wise
activation extracts the CPR so that it is sufficient (accurate) and necessary (robust); training is a minimax game based on
intervention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.cprl.activation import ChannelMask, RandomMask, SoftRankActivation, StableRankActivation
from iqarena.defenses.cprl.model import StraightThrough, activation_holder, feature_map_shape, insert_activation
from iqarena.defenses.training.adversarial import AdversarialTraining
from iqarena.defenses.training.anchored import ranking_loss
from iqarena.defenses.training.ball import INNER_STEPS
from iqarena.defenses.training.loop import inner_attack
from iqarena.models.base import FeatureModel, QualityModel

SMOOTHER, SHARPER = 4.0, 0.25
"""Factors on the widths of soft rank and mask in a surrogate; the deployed model is unchanged."""


def feature_model(model: QualityModel, name: str) -> FeatureModel:
    """Return the model if it exposes its last feature maps.

    Raises:
        DoesNotApply: if it does not.
    """
    if not isinstance(model, FeatureModel):
        raise DoesNotApply(f"{name} needs a model with visible feature maps (FeatureModel), and {model.info.name} has none")
    return model


@dataclass(frozen=True)
class CPRL(AdversarialTraining):
    """A soft-rank activation after the last stage, trained by min_θ σ·SF + λ·IV + γ·NC + κ·INV.

    SF (sufficiency): squared error on clean images. IV (intervention): squared error on images attacked by PGD inside the
    ball. NC (necessity): relu(min(μ, |y − y'|) − |h(CPR) − h(do(CPR := CPR'))|), where CPR' and y' are those of another
    image. With γ = 0 and no mask this is `adversarial-training`, the baseline that it must be compared with.

    The parameters after `through` are our own extensions beyond the abstract; each is off by default.

    Attributes:
        adversarial_weight: λ; 0 removes the minimax game and its inner attack.
        necessity_weight: γ; 0 removes the necessity loss.
        margin: μ, in units of quality.
        mask: "soft-rank"; "stable-rank", our own variant with one mask for all images, see `StableRankActivation`; or, as
            controls, "random", a fixed mask of the same size, or "none".
        keep, temperature, sharpness: parameters of the activation, see `SoftRankActivation`.
        mask_seed: seed of the random mask.
        through: what an adaptive attacker differentiates: the deployed activation ("exact"), one with wider or narrower soft
            edges ("smoother", "sharper"), or the identity ("identity").
        after: the stage of the model after which the activation is inserted, such as ``blocks.1``; empty for the last
            feature maps.
        mask_ramp: fraction of the training over which the mask m is ramped up: the features are multiplied by 1 − a·(1 − m),
            and a grows linearly from 0 to 1, as the initial weights were trained without a mask.
        intervention: objective of the inner attack: to raise the squared error to the label ("label"); or that to
            y + 2·sign(y − ȳ), with ȳ the mean label of the batch, which pushes every score across the middle and on
            ("reflection", after the paper's score reflection attack); or both in turn ("mixed"). IV remains the error to
            the label.
        invariance_weight: κ, the weight of INV = (f(x') − f(x))², the causal invariance loss of the journal version.
        necessity: "clean", as above; or "attacked": NC = relu(min(μ, |y − y'|) − sign(y − y')·(f(x') − f(x''))) over all
            pairs of attacked images of the batch: necessity that holds under intervention, and in the right direction.
        inner_steps: steps of the inner attack; each costs a pass.
        sufficiency_weight: σ; 0 removes the clean images and their pass.
    """

    name: ClassVar[str] = "cprl"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.19567 (our reconstruction from the abstract)"
    passes_an_image: ClassVar[int] = INNER_STEPS + 2
    not_trained: ClassVar[tuple[str, ...]] = ("weights", "through")

    necessity_weight: float = 0.1
    margin: float = 0.2
    mask: Literal["soft-rank", "stable-rank", "random", "none"] = "soft-rank"
    keep: float = 0.5
    temperature: float = 0.1
    sharpness: float = 0.05
    mask_seed: int = 0
    through: Literal["exact", "smoother", "sharper", "identity"] = "exact"
    after: str = ""
    mask_ramp: float = 0.0
    intervention: Literal["label", "reflection", "mixed"] = "label"
    invariance_weight: float = 0.0
    necessity: Literal["clean", "attacked"] = "clean"
    inner_steps: int = INNER_STEPS
    sufficiency_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        clean, attacked = self.sufficiency_weight > 0, self.adversarial_weight > 0
        object.__setattr__(self, "passes_an_image", int(clean) + (self.inner_steps + 1 if attacked else 0))
        if not (0 < self.keep < 1 and self.temperature > 0 and self.sharpness > 0 and self.necessity_weight >= 0):
            raise ValueError(
                "cprl: keep must be in (0, 1), temperature and sharpness above 0, necessity_weight not negative"
            )
        self.refuse_negative(invariance_weight=self.invariance_weight, sufficiency_weight=self.sufficiency_weight)
        if not (0 <= self.mask_ramp < 1 and self.inner_steps >= 1):
            raise ValueError("cprl: mask_ramp must be in [0, 1), inner_steps at least 1")
        both, needs = clean and attacked, attacked if self.necessity == "attacked" else clean
        lacking = {
            "a training": not (clean or attacked),
            f"necessity={self.necessity}": self.necessity_weight > 0 and not needs,
            "invariance_weight above 0": self.invariance_weight > 0 and not both,
            "mask=stable-rank": self.mask == "stable-rank" and not both,
        }
        for what in (what for what, is_so in lacking.items() if is_so):
            raise ValueError(f"cprl: {what} needs images that a sufficiency_weight or adversarial_weight of 0 takes out")

    def prepare(self, model: QualityModel) -> QualityModel:
        copied = feature_model(super().prepare(model), self.name)
        if self.mask == "none":
            return copied
        channels = feature_map_shape(copied, self.after)[1]
        activation: ChannelMask = SoftRankActivation(self.keep, self.temperature, self.sharpness)
        if self.mask == "random":
            activation = RandomMask(self.keep, self.sharpness, channels, self.mask_seed)
        elif self.mask == "stable-rank":
            activation = StableRankActivation(self.keep, self.sharpness, channels)
        return insert_activation(copied, activation, self.after)

    def surrogate(self, model: QualityModel) -> QualityModel:
        deployed = self.protect(model)
        part = activation_holder(deployed)
        if self.through == "exact" or part is None:
            return deployed
        if self.through == "identity":
            part.activation = StraightThrough(part.activation)
        elif isinstance(part.activation, SoftRankActivation):
            width = SMOOTHER if self.through == "smoother" else SHARPER
            part.activation = SoftRankActivation(self.keep, self.temperature * width, self.sharpness * width)
        return deployed

    def moved_from(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the values (N,) that the inner attack moves the scores away from."""
        if self.intervention == "label":
            return labels
        across = labels + 2 * (labels - labels.mean()).sign()
        if self.intervention == "mixed":
            across[1::2] = labels[1::2]
        return across

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        part = activation_holder(model)
        if part is not None and isinstance(part.activation, ChannelMask) and self.mask_ramp > 0:
            part.activation.in_force = min(1.0, progress / self.mask_ramp)
        scored = {"clean": images} if self.sufficiency_weight > 0 else {}
        if self.adversarial_weight > 0:
            scored["attacked"] = inner_attack(model, images, self.moved_from(labels), self.ball(progress), self.inner_steps)
        scores = dict(zip(scored, model.quality(torch.cat(list(scored.values()))).float().chunk(len(scored)), strict=True))
        weights = {"clean": self.sufficiency_weight, "attacked": self.adversarial_weight}
        total = torch.stack([weights[kind] * (values - labels).square().mean() for kind, values in scores.items()]).sum()
        if self.invariance_weight > 0:
            total = total + self.invariance_weight * (scores["attacked"] - scores["clean"]).square().mean()
        if self.necessity_weight > 0:
            total = total + self.necessity_weight * self._necessity(scores[self.necessity], labels)
        return total

    def _necessity(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.necessity == "attacked":
            return ranking_loss(scores, scores, labels, labels, self.margin)
        # do(C := c'): the CPR is replaced by that of another image of the batch
        effect = (scores - scores.roll(1, 0)).abs()
        wanted = (labels - labels.roll(1, 0)).abs().clamp(max=self.margin)
        return torch.relu(wanted - effect).mean()
