"""`sma`: the SROCC-MSE attack on a whole image set (Yang, Liu, Li, Jiang, "Beyond Score Changes", arXiv 2404.13277).

In the paper, the target scores of the set are first optimised through differentiable ranks, for a low rank correlation with
the clean scores and a large squared error; then each image is attacked by signed gradients toward its target score.
Ours also respects the reachable range of each image: it is first attacked downward and upward, and its target score is
chosen between the two results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.apgd import APGD
from iqarena.attacks.base import Generators, Target
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.attacks.whole_set import SetAttack

_ROUNDS = 300
_SOFTNESS = (0.05, 0.005)
"""Width of the soft comparison of two qualities, in the first and in the last round."""
_RATE = 0.05
_PAIRS = 2**24
"""Pairs of images compared at once, which bounds memory."""


@dataclass(frozen=True)
class SMA(SetAttack):
    """Reachable target qualities for the whole set that minimise SROCC, then an attack on each image toward its target.

    Targets t minimise SROCC(t, q₀) − λ·mean((t − q₀)²) by Adam, starting at the mirrored qualities, with ranks computed as
    sums of sigmoids.

    Attributes:
        steps: gradient steps of each of the three descents: down, up, and to the target.
        restarts: runs of the last descent.
        error_weight: λ.
    """

    name: ClassVar[str] = "sma"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.13277"

    steps: int = 50
    restarts: int = 1
    error_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.error_weight < 0:
            raise ValueError("sma: steps and restarts must be at least 1, error_weight at least 0")

    @property
    def passes(self) -> tuple[int, int]:
        return (2 + self.restarts) * (self.steps + 1) + 2, (2 + self.restarts) * self.steps

    def look(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        """Return the lowest and the highest quality reached for each image, (N, 2)."""
        ends = []
        for aim, parts in ((objective.of_kind("lower"), 3), (objective.of_kind("raise"), 2)):
            steps = self._affordable(target, parts)
            attacked = APGD(steps=steps, restarts=1).run(target, images, aim, threat, generator) if steps > 0 else images
            left = target.queries_left
            ends.append(objective.clean if left is not None and left < 1 else target.quality(attacked))
        return torch.stack([torch.minimum(ends[0], objective.clean), torch.maximum(ends[1], objective.clean)], dim=1)

    def decide(self, clean: torch.Tensor, seen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return rank_destroying(clean, seen[:, 0], seen[:, 1], self.error_weight)

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        steps = self._affordable(target, 1)
        if steps < 1:
            return images
        return APGD(steps=steps, restarts=self.restarts).run(target, images, objective, threat, generator)

    def _affordable(self, target: Target, parts: int) -> int:
        """Return the steps of a descent when the remaining queries have to be divided into `parts`."""
        left = target.queries_left
        return self.steps if left is None else min(self.steps, left // parts - 2)


def rank_destroying(clean: torch.Tensor, low: torch.Tensor, high: torch.Tensor, error_weight: float) -> torch.Tensor:
    """Optimise qualities (n,) between `low` and `high` for the lowest rank correlation with the clean qualities.

    Args:
        clean: clean qualities (n,).
        low, high: reachable range of each image, (n,).
        error_weight: λ, the reward for squared error.

    Returns:
        The best of the optimised targets and the mirrored qualities, by SROCC with `clean` minus the reward.
    """
    clean, low, high = (values.double() for values in (clean, low, high))
    ranks = _standardised(_hard_ranks(clean))
    width = (high - low).clamp(min=1e-6)
    best, least = clean, float("inf")
    starts = [(1 - clean).clamp(low, high), (2 * clean.mean() - clean).clamp(low, high)]
    for start in starts:
        free = (((start - low) / width).clamp(0.02, 0.98)).logit().requires_grad_()
        adam = torch.optim.Adam([free], lr=_RATE)
        for round_index in range(_ROUNDS):
            softness = _SOFTNESS[0] * (_SOFTNESS[1] / _SOFTNESS[0]) ** (round_index / (_ROUNDS - 1))
            targets = low + width * free.detach().sigmoid()
            slope = _rank_correlation_gradient(targets, ranks, softness) - 2 * error_weight * (targets - clean) / len(clean)
            free.grad = slope * (targets - low) * (high - targets) / width
            adam.step()
        for targets in (start, (low + width * free.detach().sigmoid())):
            order = (_standardised(_hard_ranks(targets)) * ranks).mean()
            loss = float(order - error_weight * ((targets - clean) ** 2).mean())
            if loss < least:
                best, least = targets, loss
    return best.float()


def _standardised(values: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean()
    return centred / centred.square().mean().sqrt().clamp(min=1e-12)


def _rank_correlation_gradient(values: torch.Tensor, clean_ranks: torch.Tensor, softness: float) -> torch.Tensor:
    """Compute the gradient (n,) of the correlation of the soft ranks of `values` with standardised `clean_ranks`.

    The soft rank of a value v is Σ σ((v − w)/softness) over all values w. Pairs are processed in blocks of rows.
    """
    rows = max(_PAIRS // len(values), 1)

    def compared(part: torch.Tensor) -> torch.Tensor:
        return ((part[:, None] - values[None, :]) / softness).sigmoid()

    with torch.enable_grad():
        ranks = torch.cat([compared(part).sum(dim=1) for part in values.split(rows)]).requires_grad_()
        (by_rank,) = torch.autograd.grad((_standardised(ranks) * clean_ranks).mean(), ranks)
    gradients = []
    for part, part_by_rank in zip(values.split(rows), by_rank.split(rows), strict=True):
        share = compared(part)
        gradients.append((share * (1 - share) * (part_by_rank[:, None] - by_rank[None, :])).sum(dim=1) / softness)
    return torch.cat(gradients)


def _hard_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the mid-ranks (n,) of values."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    middle: torch.Tensor = (counts.cumsum(0) - (counts - 1) / 2).to(values)
    return middle[inverse]
