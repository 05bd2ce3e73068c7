"""`apgd` and `apgd-l2`: Auto-PGD (Croce and Hein, ICML 2020, arXiv 2003.01690), on an objective instead of a margin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Access, Attack, Generators, Target
from attacks.best import Best, chosen
from attacks.descent import random_point, steepest
from attacks.objective import Objective
from attacks.threat import Norm, Threat

_MOMENTUM, _PROGRESS = 0.75, 0.75
"""The paper's α, and its ρ: the share of steps that must improve for a step size to stay."""
_WALK, _LEAP = 0.25, 2.0
"""First step size of the first run and of the others, as shares of the ball's; the paper's is the leap."""
_FIRST, _SHRINK, _LEAST = 0.22, 0.03, 0.06
"""Shares of all steps: the first review of step sizes, how much sooner each next comes, and the nearest that they come."""


def reviews(steps: int) -> list[int]:
    """The steps after which step sizes are reviewed: ⌈p·steps⌉, p growing by max(last growth − 0.03, 0.06)."""
    places, share, growth = [], 0.0, _FIRST
    while share + growth < 1:
        share += growth
        growth = max(growth - _SHRINK, _LEAST)
        places.append(math.ceil(round(share * steps, 6)))
    return places


@dataclass(frozen=True)
class APGD(Attack):
    """Projected steps with momentum, whose size halves for each picture by itself where they stop paying.

    The first run walks off from the clean picture, further ones are the paper's: they start at random points of the ball and
    leap across it. A leap decides which of a quality model's optima is climbed, and on some models and directions it is
    one that `pgd` with its small steps beats; together they are ahead. A picture that has reached what its objective asks
    for needs no further run. The best iterate, as it would be stored in 8 bit, counts.

    Attributes:
        steps: gradient steps of a run; fewer where the query limit allows no more.
        restarts: runs; with one there is only the walk.
    """

    name: ClassVar[str] = "apgd"
    access: ClassVar[Access] = "gradient"
    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01690"

    steps: int = 100
    restarts: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"{self.name}: steps and restarts must be at least 1")

    @property
    def passes(self) -> tuple[int, int]:
        return self.restarts * (self.steps + 1), self.restarts * self.steps

    def aim(self, objective: Objective) -> Objective:
        """The objective that is really followed."""
        return objective

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        objective = self.aim(objective)
        best = Best(images, objective.loss(objective.clean))
        for restart in range(self.restarts):
            open_ = (~objective.reached(best.losses)).nonzero().flatten()
            if not len(open_):
                break
            left = target.queries_left
            steps = self.steps if left is None else min(self.steps, left // (self.restarts - restart) - 1)
            if steps < 1:
                continue
            part, start, first = images[open_], images[open_], _WALK
            if restart > 0:  # drawn for those alone that need it: what a picture gets must not depend on its company
                start, first = random_point(part, threat, generator.part(open_.tolist())), _LEAP
            found = self._descend(target.part(open_), start, part, objective.part(open_), threat, steps, first)
            best.offer_part(open_, found.images, found.losses)
        return best.images

    def _descend(
        self, target: Target, start: torch.Tensor, images: torch.Tensor, objective: Objective, threat: Threat, steps: int,
        first: float,
    ) -> Best:  # fmt: skip
        """One run; the best of its iterates, the start among them. A picture that has arrived leaves it at a review."""
        stored = threat.snap(start, images)
        quality, gradient = target.quality_and_grad(stored, objective.loss)
        loss = objective.loss(quality)
        best = found = Best(stored, loss)
        size, shrunk = torch.full_like(loss, first * threat.size), torch.zeros_like(loss, dtype=torch.bool)
        run = _Run(images, start, start, start, gradient, gradient, loss, loss, size, torch.zeros_like(loss), shrunk)
        index, review, since = torch.arange(len(images), device=images.device), set(reviews(steps)), 0
        for step in range(1, steps + 1):
            moved = steepest(run.gradient, threat.norm).mul_(-_wide(run.size)).add_(run.current)
            if step > 1:  # α of the way to where the step alone would end, and 1 − α of the last way once more
                moved = threat.project(moved, run.images).sub_(run.current).mul_(_MOMENTUM).add_(run.current)
                moved.add_(run.current - run.previous, alpha=1 - _MOMENTUM)
            moved = threat.project(moved, run.images)
            run.previous, run.current = run.current, moved
            stored = threat.snap(moved, run.images)
            if step == steps:
                best.offer(stored, objective.loss(target.quality(stored)))
                break
            quality, run.gradient = target.quality_and_grad(stored, objective.loss)
            before, run.loss = run.loss, objective.loss(quality)
            run.improved += run.loss < before
            better = best.offer(stored, run.loss)
            run.at_best = chosen(better, moved, run.at_best)
            run.gradient_at_best = chosen(better, run.gradient, run.gradient_at_best)
            if step in review:
                open_ = ~objective.reached(best.losses)
                if not open_.all():
                    found.offer_part(index, best.images, best.losses)
                    index, best, run = index[open_], best.part(open_), run.part(open_)
                    target, objective = target.part(open_), objective.part(open_)
                    if not len(index):
                        break
                stuck = ~run.shrunk & (best.losses >= run.loss_at_review)
                run.shrunk = (run.improved < _PROGRESS * (step - since)) | stuck
                run.size = torch.where(run.shrunk, run.size / 2, run.size)
                back = _wide(run.shrunk)
                run.current = torch.where(back, run.at_best, run.current)
                run.previous = torch.where(back, run.at_best, run.previous)
                run.gradient = torch.where(back, run.gradient_at_best, run.gradient)
                run.improved, run.loss_at_review, since = torch.zeros_like(run.loss), best.losses, step
        found.offer_part(index, best.images, best.losses)
        return found


@dataclass
class _Run:
    """Where the pictures of a run are: (N, 3, H, W) and (N,), so that some of them can leave it."""

    images: torch.Tensor
    current: torch.Tensor
    previous: torch.Tensor
    at_best: torch.Tensor
    gradient: torch.Tensor
    gradient_at_best: torch.Tensor
    loss: torch.Tensor
    loss_at_review: torch.Tensor
    size: torch.Tensor
    improved: torch.Tensor
    shrunk: torch.Tensor

    def part(self, mask: torch.Tensor) -> _Run:
        """Some of the pictures."""
        return _Run(**{name: value[mask] for name, value in vars(self).items()})


@dataclass(frozen=True)
class APGDL2(APGD):
    """Auto-PGD in the ℓ2 ball."""

    name: ClassVar[str] = "apgd-l2"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)
