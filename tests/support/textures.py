"""A labelled image set that is fast to generate."""

from __future__ import annotations

import torch

from iqarena.bench.datasets.base import Sample
from tests.support.attack_runs import random_pixels


class Textures:
    """A substitute for demo: forty images labelled by the strength of their noise, the first of them "pristine"."""

    def __init__(self) -> None:
        strengths = [1 - i / 40 for i in range(40)]
        self.samples = [Sample(f"{i}-{'pristine' if i == 0 else 'noise'}", str(i), mos) for i, mos in enumerate(strengths)]

    def spread(self, count: int) -> list[int]:
        return list(range(min(count, 40)))

    def image(self, index: int) -> torch.Tensor:
        noise = random_pixels(1, 64, 64, seed=index)[0].float()
        return (128 + (noise - 128) * self.mos(index)).to(torch.uint8)

    def mos(self, index: int) -> float:
        return self.samples[index].mos
