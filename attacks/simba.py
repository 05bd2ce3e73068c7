"""`simba`: a simple black-box attack (Guo et al., ICML 2019, arXiv 1905.07121)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.score import ScoreAttack, ends, permutations
from iqarena.attacks.threat import Norm, Threat

Basis = Literal["dct", "pixel"]


@dataclass(frozen=True)
class SimBA(ScoreAttack):
    """Directions of an orthogonal basis in random order, tried with both signs and kept if the objective improves.

    No direction is repeated before all have been tried. For linf a cosine wave has the amplitude of the step and the result
    is clipped to the ball; for l2 it has the length of the step and the whole perturbation is scaled to the ball.

    Attributes:
        queries: forward passes per image, at least 1; fewer if the query limit is lower.
        basis: cosine waves over the whole image in one channel ("dct"), or single values ("pixel").
        step_size: length of a step as a fraction of the threat's size.
        frequencies: fraction of the frequencies of each axis that are used, from the lowest, in (0, 1]; 1/8 in the paper.
            For "dct".
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
        image_index = torch.arange(count, device=images.device)
        waves = [_waves(side, threat.norm).to(images) for side in (height, width)]
        # one plane per channel; the sums are not rounded
        sums, low, high = [part.flatten(0, 1) for part in (images.clone(), *_bounds(images, threat))]
        current, losses = images.clone(), objective.loss(objective.clean).clone()
        planes = current.flatten(0, 1)
        order, positive = images.new_empty(count, 0, dtype=torch.int64), images.new_ones(count, dtype=torch.bool)
        position = torch.zeros(count, dtype=torch.int64, device=images.device)
        for _ in range(self.allowed(target)):
            while order.shape[1] <= int(position.max()):
                order = torch.cat([order, permutations(channels * rows * columns, generator).to(order)], dim=1)
            direction = order[image_index, position]
            channel, row, column = direction // (rows * columns), direction // columns % rows, direction % columns
            length = torch.where(positive, 1.0, -1.0).to(images) * (self.step_size * threat.size)
            if self.basis == "pixel":
                wave = images.new_zeros(count, height, width)
                wave[image_index, row, column] = length
            else:
                wave = (waves[0][row] * length[:, None])[:, :, None] * waves[1][column][:, None, :]
            if threat.norm == "linf":  # only the channel of the direction changes
                plane_index = image_index * channels + channel
                candidates = wave
                # in a loop, as copying the planes of all images would take longer
                for values, plane in zip(candidates, plane_index.tolist(), strict=True):
                    values.add_(sums[plane]).clamp_(low[plane], high[plane])
                stored = (candidates * 255).round_().div_(255)
            else:
                plane_index = torch.arange(count * channels, device=images.device)
                whole = sums.unflatten(0, (count, channels)).clone()
                whole[image_index, channel] += wave
                whole = threat.project(whole, images)
                candidates, stored = whole.flatten(0, 1), threat.snap(whole, images).flatten(0, 1)
            before = planes.index_select(0, plane_index)
            planes.index_copy_(0, plane_index, stored)
            seen = objective.loss(target.quality(current))
            better = seen < losses
            losses = torch.where(better, seen, losses)
            kept = better.repeat_interleave(len(plane_index) // count)
            accepted, rejected = kept.nonzero().flatten(), (~kept).nonzero().flatten()
            sums.index_copy_(0, plane_index[accepted], candidates.index_select(0, accepted))
            planes.index_copy_(0, plane_index[rejected], before.index_select(0, rejected))
            # move on after a success or after both signs have failed
            done = better | ~positive
            position, positive = position + done.long(), done
        return current


def _bounds(images: torch.Tensor, threat: Threat) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bounds of the accumulated image: for linf the 8-bit ends of the ball; for l2 there are none (unused)."""
    return ends(images, threat) if threat.norm == "linf" else (images, images)


def _waves(side: int, norm: Norm) -> torch.Tensor:
    """Return the cosines of the DCT-II by rows, (side, side): of amplitude 1 for linf, of length 1 for l2."""
    at = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi * at[:, None] * (at + 0.5) / side)
    return waves / (waves.abs().amax(1, keepdim=True) if norm == "linf" else waves.norm(dim=1, keepdim=True))
