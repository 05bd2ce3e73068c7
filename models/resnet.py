"""Residual backbones (He et al., arXiv 1512.03385; Xie et al., arXiv 1611.05431), with the stride in the 3×3 convolution.

The weights have torchvision's names, so that its ImageNet weights can be loaded directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The hyper-parameters of a residual network.

    Attributes:
        blocks: number of blocks in each of the four stages.
        bottleneck: whether blocks have three convolutions or two.
        groups, group_width: parameters of the 3×3 convolutions in bottlenecks.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Output channels of each stage."""
        return (256, 512, 1024, 2048) if self.bottleneck else (64, 128, 256, 512)


SHAPES = {
    "resnet18": Shape((2, 2, 2, 2), bottleneck=False),
    "resnet50": Shape((3, 4, 6, 3)),
    "resnext101_32x8d": Shape((3, 4, 23, 3), groups=32, group_width=8),
}


class BasicBlock(nn.Module):
    """A block of two 3×3 convolutions."""

    def __init__(self, before: int, after: int, stride: int, shape: Shape) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = _downsample(before, after, stride)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.bn1(self.conv1(maps)))
        return functional.relu(self.bn2(self.conv2(inner)) + (maps if self.downsample is None else self.downsample(maps)))


class Bottleneck(nn.Module):
    """A block of 1×1, 3×3 and 1×1 convolutions, the inner one narrower."""

    def __init__(self, before: int, after: int, stride: int, shape: Shape) -> None:
        super().__init__()
        inside = after // 4 * shape.group_width // 64 * shape.groups
        self.conv1 = nn.Conv2d(before, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride, 1, groups=shape.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample = _downsample(before, after, stride)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.bn1(self.conv1(maps)))
        inner = functional.relu(self.bn2(self.conv2(inner)))
        return functional.relu(self.bn3(self.conv3(inner)) + (maps if self.downsample is None else self.downsample(maps)))


def _downsample(before: int, after: int, stride: int) -> nn.Sequential | None:
    """Build the projection of the shortcut; None if the shape of the maps does not change."""
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


class ResNet(nn.Module):
    """The convolutions of a residual network; `name` is a key of `SHAPES`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        shape = SHAPES[name]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        stages = []
        for stage, (blocks, after) in enumerate(zip(shape.blocks, shape.widths, strict=True)):
            block = Bottleneck if shape.bottleneck else BasicBlock
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            layers = [block(before if i == 0 else after, after, stride, shape) for i, stride in enumerate(strides)]
            stages.append(nn.Sequential(*layers))
            before = after
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the maps of each stage, at 1/4, 1/8, 1/16 and 1/32 of the size of normalised images (N, 3, H, W)."""
        # channels last: about a fifth faster on a CPU
        maps = functional.relu(self.bn1(self.conv1(images.contiguous(memory_format=torch.channels_last))))
        first: torch.Tensor = self.layer1(functional.max_pool2d(maps, 3, 2, 1))
        second: torch.Tensor = self.layer2(first)
        third: torch.Tensor = self.layer3(second)
        fourth: torch.Tensor = self.layer4(third)
        return first, second, third, fourth

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the last feature maps (N, C, H/32, W/32)."""
        return self.stages(images)[-1]
