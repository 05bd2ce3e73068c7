"""`fcn-filter`: three convolutions trained to remove attacks on a quality model (arXiv 2404.06957).

Layers as published: 3 → 64 → 16 → 3 channels, 3×3, LeakyReLU 0.2 between them, InstanceNorm after the second, tanh at the
end. InstanceNorm removes brightness and contrast, so the filter cannot be close to the identity. Its weights were trained
with `python -m iqarena.defenses.purification.train_denoiser`; their card has the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from iqarena.defenses.purification.base import Network, Purification, Purifier
from iqarena.defenses.purification.trained import filter_weights


class FCN(nn.Module):
    """The filter network; 0.01 M parameters. Maps (N, 3, H, W) in [0, 1] to (N, 3, H, W) in [−1, 1]."""

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
    """Filtering by a small convolutional network trained on attacked images.

    Attributes:
        weights: a safetensors file; empty for the shipped weights.
    """

    name: ClassVar[str] = "fcn-filter"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.06957"

    weights: str = ""

    def purifier(self) -> Purifier:
        network = FCN()
        return Network(network, filter_weights(self.name, network, self.weights))
