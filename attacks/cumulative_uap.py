"""`cumulative-uap`: a universal perturbation from accumulated gradients, from the MSU Metrics Robustness Benchmark.

Antsiferova, Abud, Gushchin and others, AAAI 2024, arXiv 2310.06958.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.descent import steepest
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.attacks.universal import Universal, backpropagate, minibatches


@dataclass(frozen=True)
class CumulativeUAP(Universal):
    """One tile for all images: δ ← clip(δ − step · sign ∇, ±ε), minibatch by minibatch.

    The benchmark adds the raw gradient, whose magnitude depends on the model's scale; ours steps along its sign (l2: along
    the gradient).

    Attributes:
        tile: side of the tile in pixels; at most that of the images it is fitted on.
        epochs: passes over these images, for each restart.
        batch: images per step.
        restarts: tiles learned from other starts, the first from zero; the tile of least mean loss is kept.
        step_size: length of the first step as a fraction of the threat's size; it falls linearly to 0.
    """

    name: ClassVar[str] = "cumulative-uap"
    paper: ClassVar[str] = "https://arxiv.org/abs/2310.06958"

    step_size: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step_size > 0:
            raise ValueError(f"{self.name}: step_size must be above 0")

    def learned(
        self,
        start: torch.Tensor,
        target: Target,
        images: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
    ) -> torch.Tensor:
        tile = start.requires_grad_()
        for index, rate in minibatches(len(images), self.batch, self.epochs, generator):
            tile.grad = None
            backpropagate(
                target.part(index),
                images[index],
                objective.part(index),
                threat,
                lambda part: self.spread(tile, part, threat),
            )
            assert tile.grad is not None
            tile.data -= self.step_size * rate * steepest(tile.grad[None], threat.norm)[0]
            if threat.norm == "linf":
                tile.data.clamp_(-1, 1)
            else:
                tile.data /= tile.data.norm().clamp(min=1)
        return tile.detach()
