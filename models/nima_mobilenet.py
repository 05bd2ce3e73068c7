"""`nima-mobilenet`: neural image assessment, technical quality (Talebi, Milanfar, TIP 2018, arXiv 1709.05424)."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from iqarena.models.base import FeatureModel, ModelInfo

SIDE = 224
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
_CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Channels before each pair of convolutions, and at the end."""
_GRADES = 10


def _same(maps: torch.Tensor, stride: int) -> torch.Tensor:
    """Pad maps of even sides with zeros like TensorFlow's "same" for a 3×3 window: not at the top and left for stride 2."""
    return functional.pad(maps, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))


class NIMAMobileNet(FeatureModel):
    """MobileNetV1 on the whole image at 224×224, with a distribution over the grades 1 to 10; its mean is the raw score.

    BatchNorm is folded into the convolutions, as in the published weights. 3.2 M parameters, not shipped; use
    ``nima-mobilenet[weights=FILE]``. Resizing is bilinear with antialiasing as in Pillow, but without its rounding.
    """

    info = ModelInfo(
        "nima-mobilenet",
        score_range=(1, _GRADES),
        licence="Apache-2.0 (idealo's weights)",
        paper="https://arxiv.org/abs/1709.05424",
        trained_on="TID2013",
    )
    weights_wanted: ClassVar[str] = (
        "a safetensors file with idealo's MobileNet for technical quality (Apache-2.0), BatchNorm folded: weight and bias "
        "of conv1, dw.0…12, pw.0…12 and fc"
    )

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _CHANNELS[0], 3, 2)
        strided = zip(_CHANNELS[:-1], _STRIDES, strict=True)
        self.dw = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride, groups=channels) for channels, stride in strided)
        self.pw = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in pairwise(_CHANNELS))
        self.fc = nn.Linear(_CHANNELS[-1], _GRADES)
        for part in self.modules():  # without BatchNorm, signals would vanish over 27 layers with PyTorch's default
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the last feature maps (N, 1024, 7, 7)."""
        small = functional.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        maps = functional.relu6(self.conv1(_same(small * 2 - 1, 2)))
        for depthwise, pointwise, stride in zip(self.dw, self.pw, _STRIDES, strict=True):
            maps = functional.relu6(pointwise(functional.relu6(depthwise(_same(maps, stride)))))
        return maps

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        shares = self.fc(features.mean(dim=(2, 3))).softmax(dim=1)
        grades = torch.arange(1, _GRADES + 1, dtype=shares.dtype, device=shares.device)
        scores: torch.Tensor = (shares * grades).sum(dim=1)
        return scores
