"""`sortmask`: the activation of CPRL's journal form alone, on plainly trained weights.

Our reconstruction from the abstract of Displays 88 (2025) 103046, which says that a plug-and-play SortMask module "blocks
small changes around the mean" to reduce the Lipschitz constant; no equation of the paper is public to us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from defenses.architecture.base import SeamBlock, WithBlock
from defenses.purification.base import with_gradient_of
from models.base import QualityModel


class SortMask(nn.Module):
    """Of each channel of each picture, values nearer to the mean μ than t go to μ; maps (M, C, h, w) to the same.

    With d = |z − μ| and t the ⌊p·h·w⌋-th smallest d of the channel (0 where that is none):

        soft    μ + sign(z − μ)·relu(d − t)     for fixed μ and t, no value moves by more than its input does
        hard    z where d > t, else μ           jumps at t, so it bounds nothing

    Args:
        share: p, in [0, 1); 0 changes nothing.
        form: "soft" or "hard".
    """

    def __init__(self, share: float, form: Literal["soft", "hard"]) -> None:
        super().__init__()
        self.share, self.form = share, form

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        place = int(self.share * maps.shape[2] * maps.shape[3])
        if place < 1:
            return maps
        mean = maps.mean(dim=(2, 3), keepdim=True)
        shift = maps - mean
        # an order statistic, so that half precision will do and no size is too large
        threshold = shift.abs().flatten(2).kthvalue(place, dim=2).values[:, :, None, None]
        if self.form == "soft":
            return mean + shift.sign() * torch.relu(shift.abs() - threshold)
        return torch.where(shift.abs() > threshold, maps, mean)


class _StraightThrough(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return with_gradient_of(maps, self.block(maps.detach()))


@dataclass(frozen=True)
class SortMaskDefense(SeamBlock):
    """SortMask on the last feature maps. The hard form is attacked through the identity (BPDA), the soft one exactly.

    Attributes:
        share: of the values of a channel that go to its mean.
        form: "soft" or "hard".
    """

    name: ClassVar[str] = "sortmask"
    paper: ClassVar[str] = "https://doi.org/10.1016/j.displa.2025.103046 (our reconstruction from the abstract)"
    over_places: ClassVar[bool] = True

    share: float = 0.3
    form: Literal["soft", "hard"] = "soft"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share < 1:
            raise ValueError(f"{self.name}: share {self.share:g} is outside [0, 1)")
        if self.form == "hard":
            object.__setattr__(self, "surrogate_kind", "identity")

    def block(self, channels: int) -> nn.Module:
        return SortMask(self.share, self.form)

    def surrogate(self, model: QualityModel) -> QualityModel:
        deployed = self.protect(model)
        if self.form == "hard" and isinstance(deployed, WithBlock):
            deployed.block = _StraightThrough(deployed.block)
        return deployed
