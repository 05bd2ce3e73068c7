"""`patch-rs`: Sparse-RS for patches (Croce, Andriushchenko, Singh, Flammarion, Hein, AAAI 2022, arXiv 2006.12834)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.score import ScoreAttack
from iqarena.attacks.square import drawn_window, halvings
from iqarena.attacks.threat import Norm, Threat

_FIRST_SQUARES = 100
"""Number of squares of random colours that the first patch is composed of, the largest first."""


@dataclass(frozen=True)
class PatchRS(ScoreAttack):
    """One square patch: random search over its content, with squares in colours of the RGB cube's corners, and its position.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        share: fraction of the patch's pixels in the first squares, in (0, 1]; the schedule is that of `square`.
        period: one query in every `period` tries another position; the largest move shrinks from 3/4 of the image to one
            pixel.
    """

    name: ClassVar[str] = "patch-rs"
    norms: ClassVar[tuple[Norm, ...]] = ("patch",)
    paper: ClassVar[str] = "https://arxiv.org/abs/2006.12834"

    share: float = 0.8
    period: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period < 1 or not 0 < self.share <= 1:
            raise ValueError(f"{self.name}: period must be at least 1 and share in (0, 1]")

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        count, channels, height, width = images.shape
        side = threat.side(height, width)
        free = torch.tensor([height - side, width - side], device=images.device)
        patch = images.new_zeros(count, channels, side, side)
        for step, draw in enumerate(generator.uniform(0, 1, (_FIRST_SQUARES, 2 + channels)).to(images).unbind(1)):
            size = max(round(side * (1 - step / _FIRST_SQUARES)), 1)
            patch[drawn_window(draw, size, patch)] = (draw[:, 2:, None, None] < 0.5).to(patch)
        corner = (generator.uniform(0, 1, (2,)).to(images) * (free + 1)).long().minimum(free)
        current, losses = images.clone(), torch.full_like(objective.clean, math.inf)
        queries = self.allowed(target)
        for query in range(queries):
            done = query / queries
            draw = generator.uniform(0, 1, (2 + channels,)).to(images)
            new_patch, new_corner = patch, corner
            if query % self.period == self.period - 1:
                reach = max(0.75 * (1 - done) * max(height, width), 1)
                moved = corner + ((2 * draw[:, :2] - 1) * (reach + 0.5)).round().long()
                new_corner = moved.clamp(min=0).minimum(free)
            elif query > 0:
                size = min(max(round(side * math.sqrt(self.share / 2 ** halvings(done))), 1), side)
                at = drawn_window(draw, size, patch)
                new_patch = patch.clone()
                new_patch[at] = (draw[:, 2:, None, None] < 0.5).to(patch)
            squares = _squares(current, new_corner, side)
            for square, content in zip(squares, new_patch, strict=True):
                square.copy_(content)
            seen = objective.loss(target.quality(current))
            better = seen < losses
            losses = torch.where(better, seen, losses)
            patch = torch.where(better.view(-1, 1, 1, 1), new_patch, patch)
            corner = torch.where(better[:, None], new_corner, corner)
            for square, clean in zip(squares, _squares(images, new_corner, side), strict=True):
                square.copy_(clean)
        for square, content in zip(_squares(current, corner, side), patch, strict=True):
            square.copy_(content)
        return torch.where((losses < objective.loss(objective.clean)).view(-1, 1, 1, 1), current, images)


def _squares(images: torch.Tensor, corners: torch.Tensor, side: int) -> list[torch.Tensor]:
    """Return views (C, side, side) into images; indexing all of them at once takes five times as long."""
    pairs = zip(images, corners.tolist(), strict=True)
    return [image[:, top : top + side, left : left + side] for image, (top, left) in pairs]
