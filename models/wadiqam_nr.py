"""`wadiqam-nr`: weighted average of patch qualities (Bosse, Maniry, Müller, Wiegand, Samek, TIP 2018, arXiv 1612.01697)."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from iqarena.models.base import FeatureModel, ModelInfo

PATCH = 32
LEAST_WEIGHT = 1e-6
_CHANNELS = (32, 64, 128, 256, 512)  # channels of the blocks in the paper
_PAPER = "https://arxiv.org/abs/1612.01697"


class WaDIQaMNRFull(FeatureModel):
    """A VGG-style network on 32×32 patches, with one head for the quality of a patch and one for its weight.

    Ten 3×3 convolutions in five blocks that each end in 2×2 max pooling; both heads have a hidden layer. The score is
    Σ w·q / Σ w over all non-overlapping patches, from the top left corner; a remainder below 32 pixels is ignored. Raw score
    in about [0, 1]. The widths of the paper, 32 to 512 channels: 5.2 M parameters, not shipped.
    """

    info = ModelInfo("wadiqam-nr-full", min_size=PATCH, licence="MIT", paper=_PAPER)
    weights_wanted: ClassVar[str] = "a file from `iqarena train -m wadiqam-nr-full`"
    narrower: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__()
        channels = [3, *(width // self.narrower for width in _CHANNELS)]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*layers)
        self.regress = _head(channels[-1])
        self.weigh = _head(channels[-1])
        for part in self.blocks:  # without normalisation, signals would vanish over ten layers with PyTorch's default
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        nn.init.ones_(self.weigh[-1].bias)  # type: ignore[arg-type]  # all patches have weight initially

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the last feature maps (P, C, 1, 1) of the patches, those of an image one after another."""
        normal = (images - 0.45) / 0.25
        rows = normal.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (N, 3, rows, columns, 32, 32)
        patches = rows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, PATCH, PATCH)
        maps: torch.Tensor = self.blocks(patches.contiguous(memory_format=torch.channels_last))
        return maps

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        flat = features.flatten(1)
        qualities, weights = self.regress(flat), functional.relu(self.weigh(flat)) + LEAST_WEIGHT
        qualities, weights = qualities.view(count, -1), weights.view(count, -1)
        scores: torch.Tensor = (qualities * weights).sum(dim=1) / weights.sum(dim=1)
        return scores


class WaDIQaMNR(WaDIQaMNRFull):
    """The network of `wadiqam-nr-full` at half the paper's widths, 16 to 256 channels; 1.3 M parameters, shipped."""

    info = ModelInfo("wadiqam-nr", min_size=PATCH, licence="MIT", paper=_PAPER)
    weights_wanted = ""
    in_zoo = True
    narrower = 2


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 1))
