"""`spsa`: simultaneous perturbation stochastic approximation (Uesato et al., ICML 2018, arXiv 1802.05666)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators
from iqarena.attacks.descent import Memory, steepest
from iqarena.attacks.estimation import GradientEstimation
from iqarena.attacks.threat import Threat

_BETA1, _BETA2 = 0.9, 0.999


@dataclass(frozen=True)
class SPSA(GradientEstimation):
    """Adam on a gradient estimated from pairs of random signs: (ℓ(x + δv) − ℓ(x − δv))/(2δ)·v, v uniform in {−1, 1}.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        pairs: pairs of probes per step.
        probe: δ as a fraction of the threat's size (l2: the length of δv).
        step_size: learning rate of Adam as a fraction of the threat's size (l2: the length of its step).
        tile: side of the square of directions that is repeated over the image, in pixels; 0 draws every pixel independently,
            as in the paper.
    """

    name: ClassVar[str] = "spsa"
    paper: ClassVar[str] = "https://arxiv.org/abs/1802.05666"

    def directions(self, shape: tuple[int, ...], generator: Generators) -> torch.Tensor:
        return generator.signs(shape)

    def move(self, gradient: torch.Tensor, threat: Threat, memory: Memory) -> torch.Tensor:
        zeros = torch.zeros_like(gradient)
        count = memory.get("count", torch.zeros(())) + 1
        first = _BETA1 * memory.get("first", zeros) + (1 - _BETA1) * gradient
        second = _BETA2 * memory.get("second", zeros) + (1 - _BETA2) * gradient.square()
        memory.update(count=count, first=first, second=second)
        step = (first / (1 - _BETA1**count)) / ((second / (1 - _BETA2**count)).sqrt() + 1e-12)
        return -step if threat.norm == "linf" else -steepest(step, "l2")
