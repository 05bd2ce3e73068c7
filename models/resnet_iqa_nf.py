"""`resnet-iqa-nf`: `resnet-iqa` with standardised filters instead of BatchNorm (Brock, De, Smith, arXiv 2101.08692)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from iqarena.models.base import FeatureModel, ModelInfo

ALPHA = 0.5
"""Weight of a residual branch."""

_RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""Factor that gives a rectified standard normal variable unit variance."""


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters have zero mean and unit norm, with a learned gain per filter."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding)
        self.gain = nn.Parameter(torch.ones(channels_out, 1, 1, 1))
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        # the floor is that of timm; it only avoids a division by zero for constant filters
        scale = self.gain * torch.rsqrt((variance * self.weight[0].numel()).clamp(min=1e-4))
        convolved: torch.Tensor = self._conv_forward(maps, (self.weight - mean) * scale, self.bias)
        return convolved


class NFBlock(nn.Module):
    """The block ``shortcut(x̂) + α·f(x̂)``, x̂ = γ·relu(x/β), two 3×3 convolutions in f, β² the expected variance of x."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, variance: float) -> None:
        super().__init__()
        self.beta = math.sqrt(variance)
        self.conv1 = StandardizedConv2d(channels_in, channels_out, 3, stride, 1)
        self.conv2 = StandardizedConv2d(channels_out, channels_out, 3, 1, 1)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = StandardizedConv2d(channels_in, channels_out, 1, stride, 0)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        active = scaled_relu(maps / self.beta)
        inner: torch.Tensor = self.conv2(scaled_relu(self.conv1(active)))
        return (maps if self.shortcut is None else self.shortcut(active)) + ALPHA * inner


def scaled_relu(maps: torch.Tensor) -> torch.Tensor:
    """Apply a ReLU that preserves the variance."""
    return functional.relu(maps) * _RELU_GAIN


class ResNetIQANF(FeatureModel):
    """The stem and the four residual blocks of `resnet-iqa` without normalisation of activations.

    The images of a batch do not interact, even in training, and there are no running statistics that could be wrong for
    attacked images. Raw score in about [0, 1], linear. Any image of at least 64×64 pixels; 0.61 M parameters.
    """

    info = ModelInfo("resnet-iqa-nf", min_size=64, licence="MIT", paper="https://arxiv.org/abs/2101.08692")
    in_zoo = True
    width = 128

    def __init__(self) -> None:
        super().__init__()
        self.stem = StandardizedConv2d(3, 24, 5, 2, 2)
        after = 1 + ALPHA**2  # a block with a convolution in its shortcut starts from unit variance again
        self.blocks = nn.Sequential(
            NFBlock(24, 32, 2, 1.0), NFBlock(32, 64, 2, after), NFBlock(64, 128, 2, after), NFBlock(128, 128, 1, after)
        )
        self.last = math.sqrt(after + ALPHA**2)
        self.regress = nn.Sequential(nn.Linear(self.width, 64), nn.ReLU(), nn.Linear(64, 1))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the last feature maps (N, 128, H/16, W/16)."""
        # channels last: a third faster on a CPU
        normal = ((images - 0.45) / 0.25).contiguous(memory_format=torch.channels_last)
        return scaled_relu(self.blocks(self.stem(normal)) / self.last)

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        scores: torch.Tensor = self.regress(features.mean(dim=(2, 3)))
        return scores.squeeze(1)
