"""`one-pixel`: differential evolution over a few pixels (Su, Vargas, Sakurai, IEEE TEC 2019, arXiv 1710.08864)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.score import ScoreAttack, keep
from iqarena.attacks.threat import Norm, Threat

_WEIGHT = 0.5
"""F, the weight of a difference, as in the paper."""


@dataclass(frozen=True)
class OnePixel(ScoreAttack):
    """Positions and colours of a few pixels by differential evolution: child = a + F·(b − c) replaces a worse parent.

    As in the paper, there is no crossover. Every image has its own population.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        pixels: maximum number of changed pixels; fewer if the threat model allows fewer.
        population: size of the population, at least 4; 400 in the paper.
    """

    name: ClassVar[str] = "one-pixel"
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1710.08864"

    pixels: int = 5
    population: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixels < 1 or self.population < 4:
            raise ValueError(f"{self.name}: pixels must be at least 1 and population at least 4")

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        count, channels, height, width = images.shape
        pixels = min(self.pixels, threat.pixels(height, width))
        image_index = torch.arange(count, device=images.device)
        sides = torch.tensor([height, width], device=images.device)
        best, losses = images.clone(), objective.loss(objective.clean).clone()
        current = images.clone()
        # genes of a pixel: row, column and channels, all in [0, 1]
        parents = generator.uniform(0, 1, (self.population, pixels, 2 + channels)).to(images)
        children, fitness = parents, images.new_full((count, self.population), float("inf"))
        for query in range(self.allowed(target)):
            member = query % self.population
            if member == 0 and query > 0:
                others = _three_other_members(self.population, generator).to(images.device)
                a, b, c = (parents[image_index[:, None], others[..., i]] for i in range(3))
                children = (a + _WEIGHT * (b - c)).clamp(0, 1)
                parents = parents.clone()
            child = children[:, member]
            positions = (child[..., :2] * sides).long().minimum(sides - 1)
            for pixel in range(pixels):  # one by one: two may have the same position
                colours = (child[:, pixel, 2:] * 255).round() / 255
                current[image_index, :, positions[:, pixel, 0], positions[:, pixel, 1]] = colours
            seen = objective.loss(target.quality(current))
            keep(best, losses, current, seen)
            better = seen < fitness[:, member]
            parents[better, member], fitness[better, member] = child[better], seen[better]
            for pixel in range(pixels):
                at = (image_index, slice(None), positions[:, pixel, 0], positions[:, pixel, 1])
                current[at] = images[at]
        return best


def _three_other_members(population: int, generator: Generators) -> torch.Tensor:
    """Draw three different other members for every member, (N, population, 3)."""
    drawn = generator.uniform(0, 1, (population, population))
    drawn.diagonal(dim1=1, dim2=2).fill_(2)
    return drawn.argsort(dim=2)[..., :3]
