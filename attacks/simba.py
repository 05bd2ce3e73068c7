"""`simba`: a simple black-box attack (Guo et al., ICML 2019, arXiv 1905.07121)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.score import ScoreAttack, ends, orders
from iqarena.attacks.threat import Norm, Threat

Basis = Literal["dct", "pixel"]


@dataclass(frozen=True)
class SimBA(ScoreAttack):
    """Directions of an orthogonal basis in random order, each tried forth and back and kept where the objective improves.

    No direction comes twice before all have come once. For linf a cosine wave is scaled to an amplitude of the step, and
    what leaves the ball is cut off; for l2 to a length of the step, and the whole change is shortened to the ball.

    Attributes:
        queries: forward passes an image, at least 1; fewer where the query limit allows no more.
        basis: cosine waves over the whole image in one channel ("dct"), or single values ("pixel").
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
        sums, low, high = [part.flatten(0, 1) for part in (images.clone(), *_room(images, threat))]  # unrounded, by planes
        current, losses = images.clone(), objective.loss(objective.clean).clone()
        planes = current.flatten(0, 1)
        order, forth = images.new_empty(count, 0, dtype=torch.int64), images.new_ones(count, dtype=torch.bool)
        place = torch.zeros(count, dtype=torch.int64, device=images.device)
        for _ in range(self.allowed(target)):
            while order.shape[1] <= int(place.max()):
                order = torch.cat([order, orders(channels * rows * columns, generator).to(order)], dim=1)
            picked = order[each, place]
            channel, row, column = picked // (rows * columns), picked // columns % rows, picked % columns
            length = torch.where(forth, 1.0, -1.0).to(images) * (self.step_size * threat.size)
            if self.basis == "pixel":
                wave = images.new_zeros(count, height, width)
                wave[each, row, column] = length
            else:
                wave = (waves[0][row] * length[:, None])[:, :, None] * waves[1][column][:, None, :]
            if threat.norm == "linf":  # value by value: the other channels stay as they are
                at = each * channels + channel
                tried = wave
                for one, plane in zip(tried, at.tolist(), strict=True):  # a copy of the planes of all would take longer
                    one.add_(sums[plane]).clamp_(low[plane], high[plane])
                stored = (tried * 255).round_().div_(255)
            else:
                at = torch.arange(count * channels, device=images.device)
                whole = sums.unflatten(0, (count, channels)).clone()
                whole[each, channel] += wave
                whole = threat.project(whole, images)
                tried, stored = whole.flatten(0, 1), threat.snap(whole, images).flatten(0, 1)
            before = planes.index_select(0, at)
            planes.index_copy_(0, at, stored)
            seen = objective.loss(target.quality(current))
            better = seen < losses
            losses = torch.where(better, seen, losses)
            kept = better.repeat_interleave(len(at) // count)
            won, lost = kept.nonzero().flatten(), (~kept).nonzero().flatten()
            sums.index_copy_(0, at[won], tried.index_select(0, won))
            planes.index_copy_(0, at[lost], before.index_select(0, lost))
            # the next direction after a success or two failures
            done = better | ~forth
            place, forth = place + done.long(), done
        return current


def _room(images: torch.Tensor, threat: Threat) -> tuple[torch.Tensor, torch.Tensor]:
    """How far sums may go: for linf to what can be stored, so that rounding leads nowhere else; for l2 nowhere is known."""
    return ends(images, threat) if threat.norm == "linf" else (images, images)


def _waves(side: int, norm: Norm) -> torch.Tensor:
    """The cosines of the DCT-II by rows, (side, side): of amplitude 1 for linf, of length 1 for l2."""
    at = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi * at[:, None] * (at + 0.5) / side)
    return waves / (waves.abs().amax(1, keepdim=True) if norm == "linf" else waves.norm(dim=1, keepdim=True))
