"""`di-fgsm`: FGSM with diverse inputs (Xie et al., CVPR 2019, arXiv 1803.06978)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.descent import GradientDescent, Memory
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat


@dataclass(frozen=True)
class DIFGSM(GradientDescent):
    """`i-fgsm` with random input transformations: an image is shrunk and padded with black to its original size.

    Candidates for the result are the iterates of steps without a transformation, and the last iterate.

    Attributes:
        probability: probability that an image is transformed before a step, in [0, 1]; 0 is `i-fgsm`.
        least: minimum scale of the shrunk image, in (0, 1].
    """

    name: ClassVar[str] = "di-fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/1803.06978"

    random_start: bool = False
    probability: float = 0.5
    least: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.probability <= 1 and 0 < self.least <= 1):
            raise ValueError(f"{self.name}: probability must be in [0, 1] and least in (0, 1]")

    def ask(
        self,
        target: Target,
        stored: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
        memory: Memory,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        draws = generator.uniform(0, 1, (4,)).tolist()
        with torch.enable_grad():
            leaf = stored.detach().requires_grad_()
            seen = torch.cat([self.transformed(leaf[i : i + 1], draw) for i, draw in enumerate(draws)])
        quality, gradient = target.quality_and_grad(seen.detach(), objective.loss)
        (gradient,) = torch.autograd.grad(seen, leaf, gradient)
        untransformed = quality.new_tensor([draw[0] >= self.probability for draw in draws], dtype=torch.bool)
        return torch.where(untransformed, quality, math.nan), gradient

    def transformed(self, image: torch.Tensor, draw: list[float]) -> torch.Tensor:
        """Shrink and pad an image (1, 3, H, W), by four numbers in [0, 1): whether, the scale, and the position."""
        chance, size, top, left = draw
        if chance >= self.probability:
            return image
        share = self.least + (1 - self.least) * size
        height, width = image.shape[2:]
        rows, columns = max(round(share * height), 1), max(round(share * width), 1)
        top, left = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        small = functional.interpolate(image, size=(rows, columns), mode="bilinear", align_corners=False)
        return functional.pad(small, (left, width - columns - left, top, height - rows - top))
