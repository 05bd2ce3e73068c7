"""`feature-denoising`: denoising of feature maps, in which attacks appear as noise (Xie et al., CVPR 2019).

A block of the paper is a spatial filter, a 1×1 convolution with BatchNorm, and a shortcut around both. The paper inserts
four of them into a ResNet; here there is one, before the head, which is possible for every model with visible feature maps.
The paper trains it adversarially: ``feature-denoising[training=adversarial]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional

from iqarena.defenses.architecture.base import SeamBlock


class DenoisingBlock(nn.Module):
    """The block z + BatchNorm(W · filtered(z)), for maps (M, C, h, w); initially the identity, as the BatchNorm gain is 0.

    Args:
        channels: C.
        kind: "non-local": every position becomes the mean of all positions, weighted by softmax(θ(z_i)ᵀφ(z_j)/√C) with
            learned 1×1 embeddings θ, φ (the Gaussian version of the paper); "mean": the mean of its 3×3 neighbours, fewer at
            the border.
    """

    def __init__(self, channels: int, kind: Literal["non-local", "mean"]) -> None:
        super().__init__()
        self.kind = kind
        if kind == "non-local":
            self.query = nn.Conv2d(channels, channels, 1)
            self.key = nn.Conv2d(channels, channels, 1)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def filtered(self, maps: torch.Tensor) -> torch.Tensor:
        """Apply the spatial filter to the maps, (M, C, h, w)."""
        if self.kind == "mean":
            return functional.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
        query, key, value = (part.flatten(2).transpose(1, 2) for part in (self.query(maps), self.key(maps), maps))
        mixed = functional.scaled_dot_product_attention(query, key, value.to(query.dtype))
        return mixed.transpose(1, 2).reshape(maps.shape)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        denoised: torch.Tensor = maps + self.norm(self.mix(self.filtered(maps)))
        return denoised


@dataclass(frozen=True)
class FeatureDenoising(SeamBlock):
    """A denoising block before the head.

    Attributes:
        filter: "non-local", the best one in the paper, or "mean".
    """

    name: ClassVar[str] = "feature-denoising"
    paper: ClassVar[str] = "https://arxiv.org/abs/1812.03411"
    over_places: ClassVar[bool] = True

    filter: Literal["non-local", "mean"] = "non-local"

    def block(self, channels: int) -> nn.Module:
        return DenoisingBlock(channels, self.filter)
