"""`orthogonal`: every linear layer keeps lengths, up to one gain (after Meleshin et al., arXiv 2506.04951).

Public to us is what the abstract says: orthogonal, norm-preserving layers in place of a model's own, no adversarial
training, no significant change of the model, pruning and fine-tuning. Here the weight of each convolution and linear layer,
as a matrix from what one output sees to the outputs, is gain · Q with orthonormal rows (or columns, where there are fewer):
it stretches no direction more than another. BatchNorm stays as it is and has a gain for every channel, so the network as
a whole is bounded by nothing (that is `lipschitz`). Nothing is pruned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from iqarena.defenses.architecture.base import Architecture
from iqarena.defenses.base import DoesNotApply
from iqarena.models.base import QualityModel

_RIDGE = 1e-5
"""Added to the Gram matrix, of its mean diagonal, so that parallel filters are no division by zero; rows are then shorter
than 1 by half of it."""


def orthonormal(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (…, m, n) made to have orthonormal rows, or columns where m > n: L⁻¹M with LLᵀ = MMᵀ (Gram-Schmidt's)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.transpose(-1, -2) if tall else matrices
    gram = wide @ wide.transpose(-1, -2)
    ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
    lower = torch.linalg.cholesky(gram + ridge[..., None, None] * torch.eye(gram.shape[-1], device=gram.device))
    made: torch.Tensor = torch.linalg.solve_triangular(lower, wide, upper=False)
    return made.transpose(-1, -2) if tall else made


class ScaledOrthogonal(nn.Module):
    """A parametrisation of weights (O, I, …): gain · Q, of as much energy as the weight that it starts from.

    Args:
        weight: that one.
        groups: of a grouped convolution, each of which is a matrix of its own.
    """

    def __init__(self, weight: torch.Tensor, groups: int) -> None:
        super().__init__()
        self.groups = groups
        with torch.no_grad():
            self.gain = nn.Parameter(weight.norm() / orthonormal(self._matrices(weight)).norm())

    def _matrices(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.float().reshape(self.groups, weight.shape[0] // self.groups, -1)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return self.gain * orthonormal(self._matrices(weight)).reshape(weight.shape)


@dataclass(frozen=True)
class Orthogonal(Architecture):
    """Convolutions and linear layers with orthonormal rows and one gain each."""

    name: ClassVar[str] = "orthogonal"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.04951 (our reading of the abstract)"

    def prepare(self, model: QualityModel) -> QualityModel:
        copied = super().prepare(model)
        layers = [layer for layer in copied.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        if not layers:
            raise DoesNotApply(f"{self.name} needs convolutions or linear layers, and {model.info.name} shows none")
        for layer in layers:
            groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
            parametrize.register_parametrization(layer, "weight", ScaledOrthogonal(layer.weight.detach(), groups))
        return copied

    def protect(self, model: QualityModel) -> QualityModel:
        protected = super().protect(model)
        for layer in protected.modules():
            if parametrize.is_parametrized(layer):  # once, and not at every score
                parametrize.remove_parametrizations(layer, "weight")
        return protected
