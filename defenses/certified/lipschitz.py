"""`lipschitz`: a network with a bounded Lipschitz constant, which certifies its score without random draws.

Almost-orthogonal layers (Prach and Lampert, arXiv 2208.03160) and MaxMin (Anil, Lucas, Grosse, arXiv 1811.05381) are
1-Lipschitz; averaging the features over P positions divides the constant by √P; the head is a unit vector times a fixed
slope. The product of the three is the certificate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from iqarena.defenses.base import Kind, TrainedDefense
from iqarena.defenses.certified.base import Certificate, CertifiedDefense, checked_radius
from iqarena.defenses.certified.layers import BoundedConv2d, MaxMin
from iqarena.defenses.training.loop import regression
from iqarena.models.base import ModelInfo, QualityModel

WIDTHS = (32, 64, 96)
FOLD = 2 ** len(WIDTHS)
"""Side of the block of pixels that maps to one position of the last feature maps."""

ROUNDING = 1e-5
"""Bound on the float32 error of the network in units of quality: about 10 layers of relative error 1e-6, on features of
length about 10 per position, which the head scales by about 1."""


class LipschitzIQA(QualityModel):
    """Three stages of a 2×2 patch-wise and a 3×3 bounded convolution; spatial mean; bounded head; quality in about [0, 1].

    Any image of at least 16×16 pixels; sides are padded with mid-grey to a multiple of 8.

    Args:
        slope: K in |q(x) − q(y)| ≤ K · rms(x − y), where rms is over all values of the image.
        info: facts of the model that it replaces.
    """

    def __init__(self, slope: float, info: ModelInfo) -> None:
        super().__init__()
        self.slope = slope
        self.info = replace(
            info, score_range=(0.0, 1.0), higher_is_better=True, min_size=16, differentiable=True, stochastic=False
        )
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            layers += [BoundedConv2d(channels, width, 2, patches=True), MaxMin()]
            layers += [BoundedConv2d(width, width, 3), MaxMin()]
            channels = width
        self.body = nn.Sequential(*layers)
        self.neck = nn.Sequential(BoundedConv2d(channels, channels, 1), MaxMin())
        self.direction = nn.Parameter(torch.randn(channels))
        self.offset = nn.Parameter(torch.tensor(0.5))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute feature maps (N, 96, h, w) of images; this function is 1-Lipschitz."""
        height, width = images.shape[2:]
        padded = functional.pad(images - 0.5, (0, -width % FOLD, 0, -height % FOLD))
        maps: torch.Tensor = self.body(padded)
        return maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self.neck(self.features(images).mean(dim=(2, 3), keepdim=True)).flatten(1)
        unit = functional.normalize(self.direction, dim=0)
        scores: torch.Tensor = self.offset + self.slope / (FOLD * math.sqrt(3)) * (pooled * unit).sum(1)
        return scores

    def constant(self, height: int, width: int) -> float:
        """Return L in |q(x) − q(y)| ≤ L · ‖x − y‖₂ for images of this size: K / √(number of values of the padded image)."""
        return self.slope / math.sqrt(3 * (height + -height % FOLD) * (width + -width % FOLD))


@dataclass(frozen=True)
class Lipschitz(CertifiedDefense, TrainedDefense):
    """A Lipschitz network that replaces the model; its quality provably moves by at most K times the perturbation's rms.

    Only the name of the model is kept. Trained by squared error, one pass per image.

    Attributes:
        slope: K; a change of 2/255 in every pixel then moves quality by at most K · 2/255.
    """

    name: ClassVar[str] = "lipschitz"
    kind: ClassVar[Kind] = "certified"
    paper: ClassVar[str] = "https://arxiv.org/abs/2208.03160"
    passes_an_image: ClassVar[int] = 1

    slope: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.slope < math.inf:
            raise ValueError(f"lipschitz: slope {self.slope:g} is not above 0")

    def prepare(self, model: QualityModel) -> QualityModel:
        return LipschitzIQA(self.slope, model.info)

    def loss(self, model: QualityModel, images: torch.Tensor, labels: torch.Tensor, progress: float) -> torch.Tensor:
        return regression(model, images, labels).mean()

    def certify(self, model: QualityModel, images: torch.Tensor, radius: float) -> Certificate:
        network = self.protect(model)
        assert isinstance(network, LipschitzIQA)
        reach = network.constant(*images.shape[2:]) * checked_radius(self.name, radius) + ROUNDING
        with torch.inference_mode():
            quality = torch.cat([network.quality(image[None]) for image in images]).double()
        return Certificate(quality - reach, quality + reach, radius, 1.0)
