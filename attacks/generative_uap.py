"""`generative-uap`: a network draws a universal perturbation, from the MSU Metrics Robustness Benchmark.

Antsiferova, Abud, Gushchin and others, AAAI 2024, arXiv 2310.06958.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.attacks.unet import seeded
from iqarena.attacks.universal import Universal, backpropagate, minibatches


@dataclass(frozen=True)
class GenerativeUAP(Universal):
    """One tile for all images, ε · tanh of a U-Net on fixed noise; the network is what is learnt, the tile what is kept.

    Attributes:
        tile: its side in pixels; at most that of the images that it is fitted on.
        epochs: passes over these images, for each restart.
        batch: images a step.
        restarts: tiles of networks with other noise and first weights; the one of least mean loss counts.
        width: channels of the network's outermost level, a multiple of 4.
        learning_rate: Adam's at the start; it falls linearly to 0.
    """

    name: ClassVar[str] = "generative-uap"
    paper: ClassVar[str] = "https://arxiv.org/abs/2310.06958"

    epochs: int = 40
    restarts: int = 2
    width: int = 24
    learning_rate: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 4 or self.width % 4 or not self.learning_rate > 0:
            raise ValueError(f"{self.name}: width must be a multiple of 4 and learning_rate above 0")

    def learned(
        self,
        start: torch.Tensor,
        target: Target,
        images: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
    ) -> torch.Tensor:
        network = seeded(self.width, generator).to(images.device)
        noise = generator.uniform(0, 1, start.shape).to(images)
        adam = torch.optim.Adam(network.parameters())
        for index, rate in minibatches(len(images), self.batch, self.epochs, generator):
            adam.zero_grad()
            backpropagate(
                target.part(index),
                images[index],
                objective.part(index),
                threat,
                lambda part: self.spread(network(noise)[0], part, threat),
            )
            adam.param_groups[0]["lr"] = self.learning_rate * rate
            adam.step()
        with torch.no_grad():
            tile: torch.Tensor = network(noise)[0].contiguous()
        return tile
