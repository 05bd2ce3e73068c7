"""`resnet18-iqa`: ResNet-18 with a quality head (He et al., CVPR 2016, arXiv 1512.03385)."""

from __future__ import annotations

import torch
from torch import nn

from iqarena.models.base import FeatureModel, ModelInfo
from iqarena.models.imagenet import OnImageNet, normalized
from iqarena.models.resnet import SHAPES, ResNet


class ResNet18IQA(OnImageNet, FeatureModel):
    """The feature maps of ResNet-18, mean-pooled into two linear layers; raw score in about [0, 1], linear.

    Any image of at least 32×32 pixels. 11.3 M parameters, not shipped.
    """

    info = ModelInfo("resnet18-iqa", licence="MIT", paper="https://arxiv.org/abs/1512.03385")
    weights_wanted = "a file from `iqarena train -m resnet18-iqa --backbone imagenet`"
    imagenet = "resnet18"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(self.imagenet)
        self.width = SHAPES[self.imagenet].widths[-1]
        self.regress = nn.Sequential(nn.Linear(self.width, 256), nn.ReLU(), nn.Linear(256, 1))

    @property
    def trunk(self) -> nn.Module:
        return self.backbone

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the last feature maps (N, C, H/32, W/32)."""
        maps: torch.Tensor = self.backbone(normalized(images))
        return maps

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        scores: torch.Tensor = self.regress(features.mean(dim=(2, 3)))
        return scores.squeeze(1)
