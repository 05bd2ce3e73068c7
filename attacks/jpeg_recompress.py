"""`jpeg-recompress`: a control; what an innocent pipeline does to the scores."""

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
    """Pillow's JPEG, once, then projected into the threat model like everything else; asks the model nothing.

    Attributes:
        quality: of the codec, 1 to 100.
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
        decoded = torch.from_numpy(np.stack([_through_jpeg(one, self.quality) for one in pixels]))
        compressed = decoded.permute(0, 3, 1, 2).to(images) / 255
        return threat.snap(threat.project(compressed, images), images)


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))
