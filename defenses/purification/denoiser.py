"""`denoiser`: a small residual network that denoises the image before it is scored.

The network predicts the noise, as in DnCNN (Zhang et al., arXiv 1608.03981), on the four half-size phases of the image, as
in FFDNet (Zhang, Zuo, Zhang, arXiv 1710.04026), which makes it four times cheaper. It has no normalisation and is blind to
the noise level. Its weights were trained with `python -m iqarena.defenses.purification.train_denoiser`; their card has the
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from iqarena.defenses.purification.base import Network, Purification, Purifier
from iqarena.defenses.purification.trained import filter_weights

WIDTH, DEPTH = 48, 8


class ResidualDenoiser(nn.Module):
    """Eight 3×3 convolutions on half-size phases; 0.13 M parameters. Maps (N, 3, H, W) to the same shape, not clamped."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(12, WIDTH, 3, padding=1), nn.ReLU()]
        for _ in range(DEPTH - 2):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(WIDTH, 12, 3, padding=1))
        for name, weight in self.body.named_parameters():
            if name.startswith(f"{len(layers)}."):
                nn.init.zeros_(weight)  # training starts from the identity
            elif weight.ndim == 4:
                nn.init.kaiming_normal_(weight, nonlinearity="relu")  # signals vanish with torch's default

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        even = functional.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        noise = functional.pixel_shuffle(self.body(functional.pixel_unshuffle(even - 0.5, 2)), 2)
        return images - noise[:, :, :height, :width]


@dataclass(frozen=True)
class Denoiser(Purification):
    """Denoising by a small residual network trained on Gaussian noise.

    Attributes:
        weights: a safetensors file; empty for the shipped weights.
    """

    name: ClassVar[str] = "denoiser"
    paper: ClassVar[str] = "https://arxiv.org/abs/1608.03981"

    weights: str = ""

    def purifier(self) -> Purifier:
        network = ResidualDenoiser()
        return Network(network, filter_weights(self.name, network, self.weights))
