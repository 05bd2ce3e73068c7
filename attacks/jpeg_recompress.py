"""`jpeg-recompress`: a control, the effect of an ordinary recompression on the scores."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Norm, Threat


@dataclass(frozen=True)
class JPEGRecompress(Attack):
    """One JPEG compression by Pillow, projected into the threat model; makes no queries.

    Attributes:
        quality: JPEG quality, 1 to 100.
    """

    name: ClassVar[str] = "jpeg-recompress"
    access: ClassVar[Access] = "none"
    control: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "ssim")

    quality: int = 90

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"{self.name}: quality must be in 1…100")

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 0

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        decoded = torch.from_numpy(np.stack([_recompress(image, self.quality) for image in pixels]))
        compressed = decoded.permute(0, 3, 1, 2).to(images) / 255
        return threat.snap(threat.project(compressed, images), images)


def _recompress(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))
