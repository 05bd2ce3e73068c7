"""`cprl-sortmask`: the journal version of CPRL (Wang, Wu, Yuan, Meng, Wang, Ngan, Displays 88 (2025) 103046).

Our reconstruction from the abstract: the equations, hyper-parameters and tables of the paper are not available to us.
According to the abstract, N-CPR intervention images are generated, a causal invariance loss is minimised, and a
plug-and-play SortMask module blocks small changes around the mean, to reduce the Lipschitz constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.cprl.cprl import feature_model
from iqarena.defenses.cprl.model import CPRLModel, StraightThrough, feature_map_shape
from iqarena.defenses.cprl.sort_mask import SortMask
from iqarena.defenses.training.adversarial import AdversarialTraining
from iqarena.defenses.training.ball import INNER_STEPS
from iqarena.models.base import QualityModel

INTERVENTIONS = ("noise", "fgsm", "pgd", "reflection")


@dataclass(frozen=True)
class CPRLSortMask(AdversarialTraining):
    """SortMask after the last stage, trained by (f(x) − y)² + λ·(f(x_i) − f(x))² over imperceptible interventions x_i.

    The images of a batch get different interventions in turn (noise, one sign step, projected sign steps that raise the
    squared error, or projected sign steps that reflect the score about the middle of the range) inside a ball whose size is
    drawn per image from half of ε to ε. Blur and recompression are excluded, as they change quality.

    Attributes:
        adversarial_weight: λ, the weight of the causal invariance loss; 0 removes it and the interventions.
        share, form: parameters of the mask, see `SortMask`; share = 0 removes it.
        through: what an adaptive attacker differentiates: the deployed mask ("exact"), or the identity ("identity").
    """

    name: ClassVar[str] = "cprl-sortmask"
    paper: ClassVar[str] = "https://doi.org/10.1016/j.displa.2025.103046 (our reconstruction from the abstract)"
    passes_an_image: ClassVar[int] = INNER_STEPS + 2
    not_trained: ClassVar[tuple[str, ...]] = ("weights", "through")

    share: float = 0.3
    form: Literal["soft", "hard"] = "soft"
    through: Literal["exact", "identity"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adversarial_weight == 0:
            object.__setattr__(self, "passes_an_image", 1)  # only the clean image
        if not 0 <= self.share < 1:
            raise ValueError("cprl-sortmask: share must be in [0, 1)")

    def prepare(self, model: QualityModel) -> QualityModel:
        copied = feature_model(super().prepare(model), self.name)
        if feature_map_shape(copied)[2:] == (1, 1):
            raise DoesNotApply(f"{self.name} needs feature maps of more than one value, and {model.info.name} has none")
        return CPRLModel(copied, SortMask(self.share, self.form))

    def surrogate(self, model: QualityModel) -> QualityModel:
        deployed = self.protect(model)
        if self.through == "identity" and isinstance(deployed, CPRLModel):
            deployed.activation = StraightThrough(deployed.activation)
        return deployed

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        if self.adversarial_weight == 0:
            return ((model.quality(images).float() - labels) ** 2).mean()
        scores = model.quality(torch.cat([images, interventions(model, images, labels, self.ball(progress))])).float()
        clean, intervened = scores.chunk(2)
        invariance = ((intervened - clean) ** 2).mean()
        return ((clean - labels) ** 2).mean() + self.adversarial_weight * invariance


def interventions(model: QualityModel, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Compute one imperceptible N-CPR intervention per image, (N, 3, H, W) in [0, 1]; at most `INNER_STEPS` passes each.

    The kinds alternate over the batch; the ball of each image is ε times a draw from [0.5, 1].
    """
    kinds = [INTERVENTIONS[index % len(INTERVENTIONS)] for index in range(len(images))]
    size = epsilon * torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(0.5, 1)
    shift = torch.empty_like(images).uniform_(-1, 1) * size
    was_training = model.training
    model.eval()
    for step in range(INNER_STEPS):
        moving = [
            index for index, kind in enumerate(kinds) if kind in ("pgd", "reflection") or (kind == "fgsm" and step == 0)
        ]
        if not moving:
            continue
        subset = torch.tensor(moving, device=images.device)
        attacked = (images[subset] + shift[subset]).clamp(0, 1).requires_grad_()
        quality = model.quality(attacked).float()
        mirrored = torch.tensor([kinds[index] == "reflection" for index in moving], device=images.device)
        # away from the label, or toward its reflection about the middle of the range
        loss = torch.where(mirrored, -((quality - (1 - labels[subset])) ** 2), (quality - labels[subset]) ** 2)
        (gradient,) = torch.autograd.grad(loss.sum(), attacked)
        one_step = torch.tensor([kinds[index] == "fgsm" for index in moving], device=images.device).view(-1, 1, 1, 1)
        length = torch.where(one_step, 1.25 * size[subset], 1.25 * size[subset] / INNER_STEPS)
        shift[subset] = (shift[subset] + length * gradient.sign()).clamp(-size[subset], size[subset])
    model.train(was_training)
    return (images + shift).clamp(0, 1).detach()
