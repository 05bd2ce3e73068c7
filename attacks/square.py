"""`square`: random search with squares, scores only (Andriushchenko et al., ECCV 2020, arXiv 1912.00049)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Access, Attack, Generators, Target
from attacks.best import Best
from attacks.objective import Objective
from attacks.threat import Norm, Threat

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""The paper's schedule: the share of changed pixels is halved after these iterations of 10,000."""


@dataclass(frozen=True)
class Square(Attack):
    """The ℓ∞ form: vertical stripes of ±ε, then squares of ±ε at random places, kept where the objective improves.

    Attributes:
        queries: forward passes a picture (less where the threat allows less).
        share: of the pixels in the first squares.
    """

    name: ClassVar[str] = "square"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1912.00049"

    queries: int = 1000
    share: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.share <= 1:
            raise ValueError("square: queries must be at least 1 and share in (0, 1]")

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        _, channels, height, width = images.shape
        allowed = target.queries_left
        queries = self.queries if allowed is None else min(self.queries, allowed)
        if queries < 1:
            return images
        stripes = threat.size * generator.signs((channels, 1, width)).to(images)
        attacked = threat.project(images + stripes, images)
        best = Best(images, objective.loss(objective.clean))
        best.offer(attacked, objective.loss(target.quality(attacked)))
        rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
        for query in range(1, queries):
            share = self.share / 2 ** sum(query * 10_000 / queries > bound for bound in _HALVINGS)
            side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
            top = generator.integers(height - side + 1, (1, 1, 1))
            left = generator.integers(width - side + 1, (1, 1, 1))
            inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
            shift = threat.size * generator.signs((channels, 1, 1)).to(images)
            attacked = torch.where(inside.to(images.device), threat.project(images + shift, images), best.images)
            best.offer(attacked, objective.loss(target.quality(attacked)))
        return threat.snap(best.images, images)
