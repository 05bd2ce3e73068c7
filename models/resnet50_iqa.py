"""`resnet50-iqa`: ResNet-50 with a quality head (He et al., CVPR 2016, arXiv 1512.03385)."""

from __future__ import annotations

from iqarena.models.base import ModelInfo
from iqarena.models.resnet18_iqa import ResNet18IQA


class ResNet50IQA(ResNet18IQA):
    """The feature maps of ResNet-50 with the head of `resnet18-iqa`; raw score in about [0, 1], linear.

    Any image of at least 32×32 pixels. 24.0 M parameters, not shipped.
    """

    info = ModelInfo("resnet50-iqa", licence="MIT", paper="https://arxiv.org/abs/1512.03385")
    weights_wanted = "a file from `iqarena train -m resnet50-iqa --backbone imagenet`"
    imagenet = "resnet50"
