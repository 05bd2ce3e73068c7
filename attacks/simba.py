"""`simba`: a simple black-box attack (Guo et al., ICML 2019, arXiv 1905.07121)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from attacks.base import Generators, Target
from attacks.objective import Objective
from attacks.score import ScoreAttack, ends, orders
from attacks.threat import Norm, Threat

Basis = Literal["dct", "pixel"]


@dataclass(frozen=True)
class SimBA(ScoreAttack):
    """Directions of an orthogonal basis in random order, each tried forth and back and kept where the objective improves.

    No direction comes twice before all have come once. For linf a cosine wave is scaled to an amplitude of the step, and
    what leaves the ball is cut off; for l2 to a length of the step, and the whole change is shortened to the ball.

    Attributes:
        queries: forward passes a picture, at least 1; fewer where the query limit allows no more.
        basis: cosine waves over the whole picture in one channel ("dct"), or single values ("pixel").
        step_size: length of a step as a share of the threat's size.
        frequencies: lowest share of the frequencies of each axis that are used, in (0, 1]; 1/8 in the paper. For "dct".
    """

    name: ClassVar[str] = "simba"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.07121"

    basis: Basis = "dct"
    step_size: float = 1.0
    frequencies: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.basis not in get_args(Basis) or not self.step_size > 0 or not 0 < self.frequencies <= 1:
            raise ValueError(f"{self.name}: basis must be dct or pixel, step_size above 0 and frequencies in (0, 1]")

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        count, channels, height, width = images.shape
        share = self.frequencies if self.basis == "dct" else 1
        rows, columns = math.ceil(share * height), math.ceil(share * width)
        each = torch.arange(count, device=images.device)
        waves = [_waves(side, threat.norm).to(images) for side in (height, width)]
        low, high = ends(images, threat) if threat.norm == "linf" else (images, images)
        exact = images.clone()  # steps add up unrounded
        current, losses = images.clone(), objective.loss(objective.clean).clone()
        order, forth = images.new_empty(count, 0, dtype=torch.int64), images.new_ones(count, dtype=torch.bool)
        place = torch.zeros(count, dtype=torch.int64, device=images.device)
        for _ in range(self.allowed(target)):
            while order.shape[1] <= int(place.max()):
                order = torch.cat([order, orders(channels * rows * columns, generator).to(order)], dim=1)
            chosen = order[each, place]
            channel, row, column = chosen // (rows * columns), chosen // columns % rows, chosen % columns
            if self.basis == "pixel":
                wave = images.new_zeros(count, height, width)
                wave[each, row, column] = 1
            else:
                wave = waves[0][row][:, :, None] * waves[1][column][:, None, :]
            wave *= (torch.where(forth, 1.0, -1.0).to(images) * self.step_size * threat.size).view(-1, 1, 1)
            if threat.norm == "linf":  # value by value: the other channels stay as they are
                at: tuple[torch.Tensor, ...] = (each, channel)
                tried = wave.add_(exact[at]).clamp_(images[at] - threat.size, images[at] + threat.size).clamp_(0, 1)
                stored = ((tried * 255).round() / 255).clamp(low[at], high[at])
            else:
                at = (each,)
                tried = exact.clone()
                tried[each, channel] += wave
                tried = threat.project(tried, images)
                stored = threat.snap(tried, images)
            before = current[at]
            current[at] = stored
            seen = objective.loss(target.quality(current))
            better = seen < losses
            losses = torch.where(better, seen, losses)
            kept = better.view(-1, *[1] * (stored.dim() - 1))
            exact[at], current[at] = torch.where(kept, tried, exact[at]), torch.where(kept, stored, before)
            # the next direction after a success or two failures
            done = better | ~forth
            place, forth = place + done.long(), done
        return current


def _waves(side: int, norm: Norm) -> torch.Tensor:
    """The cosines of the DCT-II by rows, (side, side): of amplitude 1 for linf, of length 1 for l2."""
    at = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi * at[:, None] * (at + 0.5) / side)
    return waves / (waves.abs().amax(1, keepdim=True) if norm == "linf" else waves.norm(dim=1, keepdim=True))
