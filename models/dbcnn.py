"""`dbcnn`: deep bilinear pooling of two networks (Zhang, Ma, Yan, Deng, Wang, TCSVT 2020, arXiv 1907.02665)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from iqarena.models.base import FeatureModel, ModelInfo
from iqarena.models.imagenet import OnImageNet, normalized
from iqarena.models.vgg import vgg16_maps

_SYNTHETIC = ((48, 1), (48, 2), (64, 1), (64, 2), (64, 1), (64, 2), (128, 1), (128, 1), (128, 2))  # channels and stride
_AUTHENTIC = 512


class DBCNN(OnImageNet, FeatureModel):
    """Bilinear pooling of VGG-16 (for authentic distortions) and S-CNN (for synthetic distortions).

    The mean products of all pairs of channels, at 1/16 of the height and width, pass a square root, are normalised to unit
    length and end in one linear layer. Raw score in about [0, 1] if trained here. Any image of at least 32×32 pixels; 15.3 M
    parameters, not shipped. Weights have the names of the authors' PyTorch code.
    """

    info = ModelInfo("dbcnn", licence="MIT", paper="https://arxiv.org/abs/1907.02665")
    weights_wanted = "a file from `iqarena train -m dbcnn --backbone imagenet`, or one of the authors' code"
    imagenet = "vgg16"

    def __init__(self) -> None:
        super().__init__()
        self.features1 = vgg16_maps()
        layers: list[nn.Module] = []
        before = 3
        for after, stride in _SYNTHETIC:
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.features2 = nn.Sequential(*layers)
        self.fc = nn.Linear(_AUTHENTIC * before, 1)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @property
    def trunk(self) -> nn.Module:
        return self.features1

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the last 512 feature maps of VGG-16 and 128 of S-CNN, (N, 640, H/16, W/16)."""
        normal = normalized(images).contiguous(memory_format=torch.channels_last)
        authentic, synthetic = self.features1(normal), self.features2(normal)
        if synthetic.shape[2:] != authentic.shape[2:]:  # sides that are not multiples of 16 are rounded differently
            synthetic = functional.interpolate(synthetic, authentic.shape[2:], mode="bilinear", align_corners=True)
        return torch.cat([authentic, synthetic], dim=1)

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        flat = features.flatten(2)
        authentic, synthetic = flat[:, :_AUTHENTIC], flat[:, _AUTHENTIC:]
        products = (authentic @ synthetic.mT / flat.shape[2]).flatten(1)
        roots = (products.clamp(min=0) + 1e-8).sqrt()  # the offset keeps the gradient of the root finite
        scores: torch.Tensor = self.fc(functional.normalize(roots))
        return scores.squeeze(1)
