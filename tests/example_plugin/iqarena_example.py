"""An example of a plugin package: one plugin of each kind, registered by entry points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from iqarena.attacks.descent import GradientDescent
from iqarena.bench.datasets.base import ImageDataset, Sample
from iqarena.defenses.purification.base import Purification, Purifier
from iqarena.models.base import ModelInfo, QualityModel


@dataclass(frozen=True)
class ExampleStep(GradientDescent):
    """Two steps along the gradient's sign."""

    name: ClassVar[str] = "example-step"
    paper: ClassVar[str] = "unpublished"

    steps: int = 2
    step_size: float = 0.5
    random_start: bool = False


@dataclass(frozen=True)
class ExampleShift(Purification):
    """The image moved by a pixel."""

    name: ClassVar[str] = "example-shift"
    moves_pixels: ClassVar[bool] = True
    paper: ClassVar[str] = "unpublished"

    def purifier(self) -> Purifier:
        return lambda images: images.roll(1, dims=3)


class ExampleMean(QualityModel):
    """The mean of the left half of an image."""

    info = ModelInfo("example-mean", min_size=2, paper="unpublished")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[..., : images.shape[3] // 2].mean(dim=(1, 2, 3))


class ExampleRamps(ImageDataset):
    """Four small ramps, each its own reference."""

    name = "example-ramps"
    label_kind = "none"
    samples = tuple(Sample(f"ramp-{i}", f"ramp-{i}", mos=i / 3) for i in range(4))
    fingerprint = "four ramps"
    layout = "nothing"

    @classmethod
    def open(cls, root: Path | None) -> ExampleRamps:
        return cls()

    def image(self, index: int) -> torch.Tensor:
        ramp = torch.arange(24, dtype=torch.uint8).mul(4).add(30 * (index + 1))
        return ramp.expand(3, 16, 24).contiguous()
