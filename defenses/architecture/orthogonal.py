"""`orthogonal`: norm-preserving linear layers, up to one gain per layer (after Meleshin et al., arXiv 2506.04951).

Only the abstract is available to us: orthogonal, norm-preserving layers replace those of the model, without adversarial
training, without significant changes of the model, with pruning and fine-tuning. Here the weight of each convolution and
linear layer, as a matrix from the receptive field of one output to the outputs, is gain · Q with orthonormal rows (or
columns, if there are fewer): it stretches no direction more than another. BatchNorm is unchanged and has a gain for every
channel, so the network as a whole has no bound (for that see `lipschitz`). Nothing is pruned.
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
"""Ridge added to the Gram matrix, relative to its mean diagonal, so that parallel filters do not divide by zero; rows are
then shorter than 1 by half of it."""


def orthonormal(matrices: torch.Tensor) -> torch.Tensor:
    """Orthonormalise the rows of matrices (…, m, n), or the columns if m > n: L⁻¹M with LLᵀ = MMᵀ (Gram-Schmidt)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.transpose(-1, -2) if tall else matrices
    gram = wide @ wide.transpose(-1, -2)
    ridge = _RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-12)
    lower = torch.linalg.cholesky(gram + ridge[..., None, None] * torch.eye(gram.shape[-1], device=gram.device))
    result: torch.Tensor = torch.linalg.solve_triangular(lower, wide, upper=False)
    return result.transpose(-1, -2) if tall else result


class ScaledOrthogonal(nn.Module):
    """A parametrisation gain · Q of weights (O, I, …), with initially the same norm as the original weight.

    Args:
        weight: the original weight.
        groups: number of groups of a grouped convolution; each group is a separate matrix.
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
            if parametrize.is_parametrized(layer):  # computed once, not at every forward pass
                parametrize.remove_parametrizations(layer, "weight")
        return protected
