"""`zhang-dists`: the loss of the score plus DISTS (Zhang et al., NeurIPS 2022, arXiv 2210.00933)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch

from iqarena.attacks.dists import DISTS, WEIGHTS, load
from iqarena.attacks.quality_aware import QualityAware, Shaping
from iqarena.attacks.threat import Threat


@dataclass(frozen=True)
class ZhangDISTS(QualityAware):
    """Adam on the Lagrangian loss(q) + λ·DISTS, inside the ball; needs a weight file.

    Attributes:
        weights: file with the weights of VGG-16 and DISTS, see `iqarena.attacks.dists`.
        similarity: λ, the weight of DISTS in units of quality.
    """

    name: ClassVar[str] = "zhang-dists"
    paper: ClassVar[str] = "https://arxiv.org/abs/2210.00933"

    weights: str = ""
    similarity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.similarity >= 0:
            raise ValueError(f"{self.name}: similarity is a weight of at least 0, not {self.similarity:g}")

    def refusal(self, threat: Threat, height: int, width: int) -> str:
        if not self.weights:
            return f"{self.name} needs weights=FILE: {WEIGHTS}"
        if not Path(self.weights).is_file():
            return f"{self.name}: there is no file {self.weights}; needed is {WEIGHTS}"
        return super().refusal(threat, height, width)

    def shaping(self, images: torch.Tensor) -> Shaping:
        dists = _loaded(self.weights).to(images.device)
        with torch.no_grad():
            clean = dists.features(images)

        def shaped(gradient: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                leaf = stored.detach().clone().requires_grad_()
                (distance,) = torch.autograd.grad(dists(leaf, clean).sum(), leaf)
            return gradient + self.similarity * distance

        return shaped


@lru_cache(maxsize=1)
def _loaded(path: str) -> DISTS:
    """Load DISTS once for all batches."""
    return load(path)
