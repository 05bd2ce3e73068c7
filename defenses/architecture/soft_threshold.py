"""`soft-threshold`: soft thresholding of feature maps, which removes small values as noise (Zhao et al., IEEE TII 2020).

Channel-wise thresholds of a deep residual shrinkage network: z becomes sign(z)·relu(|z| − t) with t_c = α_c · mean|z_c|,
where a small network predicts α in (0, 1) from all the means. The paper has such a block in each residual unit; here there
is one, before the head. For fixed t the block is 1-Lipschitz; t itself depends on the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from iqarena.defenses.architecture.base import SeamBlock

_START = -3.0
"""Initial logit of α: training starts from thresholds of 5 % of a channel's mean."""


class Shrinkage(nn.Module):
    """Soft thresholding of maps (M, C, h, w), with thresholds predicted by two layers from the C means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, _START)
        self.share = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), last, nn.Sigmoid())

    def thresholds(self, maps: torch.Tensor) -> torch.Tensor:
        """Compute the thresholds t, (M, C, 1, 1)."""
        means = maps.abs().mean(dim=(2, 3))
        t: torch.Tensor = self.share(means) * means
        return t[:, :, None, None]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.sign() * torch.relu(maps.abs() - self.thresholds(maps))


@dataclass(frozen=True)
class SoftThreshold(SeamBlock):
    """Learned soft thresholds on the last feature maps."""

    name: ClassVar[str] = "soft-threshold"
    paper: ClassVar[str] = "https://doi.org/10.1109/TII.2019.2943898"

    def block(self, channels: int) -> nn.Module:
        return Shrinkage(channels)
