"""`hyperiqa`: a network whose weights are predicted from the image content by a hyper network (Su et al., CVPR 2020)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.imagenet import OnImageNet, normalized
from iqarena.models.resnet import ResNet

SIDE = 224
_GRID = 7  # side of the last feature maps, each position of which predicts a part of the weights
_CONTENT = 112
_LOCAL = 16
_WIDTHS = (224, 112, 56, 28, 14)  # layer widths of the predicted network, from its input


class LocalDistortions(ResNet):
    """ResNet-50 with a vector (N, 224) of local distortion features from all of its stages."""

    def __init__(self) -> None:
        super().__init__("resnet50")
        self.lda1_pool = nn.Sequential(nn.Conv2d(256, 16, 1, bias=False), nn.AdaptiveAvgPool2d(8))
        self.lda1_fc = nn.Linear(16 * 8**2, _LOCAL)
        self.lda2_pool = nn.Sequential(nn.Conv2d(512, 32, 1, bias=False), nn.AdaptiveAvgPool2d(4))
        self.lda2_fc = nn.Linear(32 * 4**2, _LOCAL)
        self.lda3_pool = nn.Sequential(nn.Conv2d(1024, 64, 1, bias=False), nn.AdaptiveAvgPool2d(2))
        self.lda3_fc = nn.Linear(64 * 2**2, _LOCAL)
        self.lda4_pool = nn.AdaptiveAvgPool2d(1)
        self.lda4_fc = nn.Linear(2048, _WIDTHS[0] - 3 * _LOCAL)

    def both(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the vector, and the last feature maps (N, 2048, H/32, W/32)."""
        stages = self.stages(images)
        pools = (self.lda1_pool, self.lda2_pool, self.lda3_pool, self.lda4_pool)
        layers = (self.lda1_fc, self.lda2_fc, self.lda3_fc, self.lda4_fc)
        seen = [fc(pool(maps).flatten(1)) for maps, pool, fc in zip(stages, pools, layers, strict=True)]
        return torch.cat(seen, dim=1), stages[-1]


class HyperIQA(OnImageNet, QualityModel):
    """Five linear layers on local distortion features, with weights and biases predicted from the content of each image.

    As in the paper for images of 224×224. The score of a larger image is the mean over windows of that size that cover it
    evenly (the paper uses 25 random ones); for smaller images, maps are pooled to the sizes of a 224×224 image. Raw score in
    about [0, 1] if trained here; the authors' weights for KonIQ-10k, which have the same names, give 0 to 100:
    ``hyperiqa[weights=FILE,low=0,high=100]``. 27.4 M parameters, not shipped.
    """

    info = ModelInfo("hyperiqa", licence="MIT", paper="https://doi.org/10.1109/CVPR42600.2020.00372")
    weights_wanted = "a file from `iqarena train -m hyperiqa --backbone imagenet`, or one of the authors' code"
    imagenet = "resnet50"
    added = ("lda",)

    def __init__(self) -> None:
        super().__init__()
        self.res = LocalDistortions()
        self.conv1 = nn.Sequential(
            nn.Conv2d(2048, 1024, 1), nn.ReLU(), nn.Conv2d(1024, 512, 1), nn.ReLU(), nn.Conv2d(512, _CONTENT, 1), nn.ReLU()
        )
        for number, (before, after) in enumerate(pairwise(_WIDTHS), start=1):
            setattr(self, f"fc{number}w_conv", nn.Conv2d(_CONTENT, before * after // _GRID**2, 3, padding=1))
            setattr(self, f"fc{number}b_fc", nn.Linear(_CONTENT, after))
        self.fc5w_fc = nn.Linear(_CONTENT, _WIDTHS[-1])
        self.fc5b_fc = nn.Linear(_CONTENT, 1)
        for name, part in self.named_modules():
            if name.startswith(("fc", "res.lda")) and isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(part.weight)

    @property
    def trunk(self) -> nn.Module:
        return self.res

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        crops = windows(images)
        return torch.stack([self._score(crop) for crop in crops]).mean(dim=0)

    def _score(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the raw scores (N,) of images of at most 224×224."""
        seen, maps = self.res.both(normalized(images))
        content = functional.adaptive_avg_pool2d(self.conv1(maps), _GRID)
        mean = content.mean(dim=(2, 3))
        for number, (before, after) in enumerate(pairwise(_WIDTHS), start=1):
            weight = getattr(self, f"fc{number}w_conv")(content).reshape(-1, after, before)
            seen = torch.sigmoid(_apply(weight, seen, getattr(self, f"fc{number}b_fc")(mean)))
        return _apply(self.fc5w_fc(mean)[:, None], seen, self.fc5b_fc(mean)).squeeze(1)


def _apply(weight: torch.Tensor, values: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Apply a separate linear layer (N, after, before) to each row of values (N, before)."""
    return (weight @ values[:, :, None]).squeeze(2) + bias


def windows(images: torch.Tensor) -> list[torch.Tensor]:
    """Return the least number of windows of at most 224×224 that cover images (N, 3, H, W) evenly."""
    rows, columns = (_starts(side) for side in images.shape[2:])
    return [images[..., top : top + SIDE, left : left + SIDE] for top in rows for left in columns]


def _starts(side: int) -> list[int]:
    count = math.ceil(side / SIDE)
    return [round(i * (side - SIDE) / (count - 1)) for i in range(count)] if count > 1 else [0]
