"""`fcn-filter`: three convolutions that were trained to undo attacks on a quality model (arXiv 2404.06957).

Layers as published: 3 → 64 → 16 → 3 channels, 3×3, LeakyReLU 0.2 between them, InstanceNorm after the second, tanh at
the end. InstanceNorm takes away how bright and how rich in contrast an image is: the filter cannot be near the identity.
`python -m iqarena.defenses.purification.train_denoiser` made its weights; the card beside them has the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from iqarena.defenses.purification.base import Network, Purification, Purifier
from iqarena.defenses.purification.trained import filter_weights


class FCN(nn.Module):
    """The filter; 0.01 M parameters. (N, 3, H, W) in [0, 1] to (N, 3, H, W) in [−1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 16, 3, padding=1),
            nn.InstanceNorm2d(16),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 3, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        filtered: torch.Tensor = self.layers(images)
        return filtered


@dataclass(frozen=True)
class FCNFilter(Purification):
    """Filtering by a small convolutional network that was trained here on attacked images.

    Attributes:
        weights: a safetensors file; empty means the one that is shipped.
    """

    name: ClassVar[str] = "fcn-filter"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.06957"

    weights: str = ""

    def purifier(self) -> Purifier:
        network = FCN()
        return Network(network, filter_weights(self.name, network, self.weights))
