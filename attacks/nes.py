"""`nes`: score-based natural evolution strategies (Ilyas, Engstrom, Athalye, Lin, ICML 2018, arXiv 1804.08598)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators
from iqarena.attacks.descent import Memory, steepest
from iqarena.attacks.estimation import GradientEstimation
from iqarena.attacks.threat import Threat


@dataclass(frozen=True)
class NES(GradientEstimation):
    """Steps along the sign (l2: the direction) of a gradient estimated from antithetic pairs of Gaussian probes.

    The estimates are averaged over the steps, as in the authors' code: m ← μ·m + (1 − μ)·g.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        pairs: antithetic pairs of probes per step.
        probe: standard deviation of a probe as a fraction of the threat's size (l2: its expected length).
        step_size: length of a step as a fraction of the threat's size.
        tile: side of the square of directions that is repeated over the image, in pixels; 0 draws every pixel independently,
            as in the paper.
        momentum: μ in [0, 1).
    """

    name: ClassVar[str] = "nes"
    paper: ClassVar[str] = "https://arxiv.org/abs/1804.08598"

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"{self.name}: momentum must be in [0, 1)")

    def directions(self, shape: tuple[int, ...], generator: Generators) -> torch.Tensor:
        return generator.normal(shape)

    def move(self, gradient: torch.Tensor, threat: Threat, memory: Memory) -> torch.Tensor:
        mean = memory.get("mean", torch.zeros_like(gradient))
        memory["mean"] = self.momentum * mean + (1 - self.momentum) * gradient
        return -steepest(memory["mean"], threat.norm)
