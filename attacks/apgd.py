"""`apgd` and `apgd-l2`: Auto-PGD (Croce and Hein, ICML 2020, arXiv 2003.01690), on an objective instead of a margin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.best import Best, chosen
from iqarena.attacks.descent import downhill, random_point
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Ball, Norm, Threat

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
    """Projected steps with momentum, whose size halves for each image by itself where they stop paying.

    The first run walks off from the clean image, further ones are the paper's: they start at random points of the ball and
    leap across it. A leap decides which of a quality model's optima is climbed, and on some models and directions it is
    one that `pgd` with its small steps beats; together they are ahead. An image that has reached what its objective asks
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
            part, first = images[open_], _WALK
            start = part
            if restart > 0:  # drawn for those alone that need it: what an image gets must not depend on its company
                start, first = random_point(part, threat, generator.part(open_.tolist())), _LEAP
            found = self._descend(target.part(open_), start, part, objective.part(open_), threat, steps, first)
            best.offer_part(open_, found.images, found.losses)
        return best.images

    def _descend(
        self,
        target: Target,
        start: torch.Tensor,
        images: torch.Tensor,
        objective: Objective,
        threat: Threat,
        steps: int,
        first: float,
    ) -> Best:
        """One run; the best of its iterates, the start among them. An image that has arrived leaves it at a review."""
        ball = Ball(threat, images)
        stored = ball.snap(start)
        quality, gradient = target.quality_and_grad(stored, objective.loss)
        loss = objective.loss(quality)
        found = Best(stored, loss)
        size, none = torch.full_like(loss, first * threat.size), torch.zeros_like(loss)
        run = _Run(ball, start, start, gradient, loss, start, gradient, loss, loss, size, none, none.bool())
        index, review, since = torch.arange(len(images), device=images.device), set(reviews(steps)), 0
        for step in range(1, steps + 1):
            stored = run.step(first=step == 1)
            if step == steps:
                run.note(objective.loss(target.quality(stored)))
                break
            quality, run.gradient = target.quality_and_grad(stored, objective.loss)
            run.note(objective.loss(quality))
            if step in review:
                open_ = ~objective.reached(run.best)
                if not open_.all():
                    found.offer_part(index, run.ball.snap(run.at_best), run.best)
                    index, run = index[open_], run.part(open_)
                    target, objective = target.part(open_), objective.part(open_)
                    if not len(index):
                        break
                run.review(step - since)
                since = step
        found.offer_part(index, run.ball.snap(run.at_best), run.best)
        return found


@dataclass
class _Run:
    """Where the images of a run are: (N, 3, H, W) and (N,), so that some of them can leave it."""

    ball: Ball
    current: torch.Tensor
    previous: torch.Tensor
    gradient: torch.Tensor
    loss: torch.Tensor
    at_best: torch.Tensor
    gradient_at_best: torch.Tensor
    best: torch.Tensor
    best_at_review: torch.Tensor
    size: torch.Tensor
    improved: torch.Tensor
    shrunk: torch.Tensor

    def part(self, mask: torch.Tensor) -> _Run:
        """Some of the images."""
        return _Run(**{name: value.part(mask) if name == "ball" else value[mask] for name, value in vars(self).items()})

    def step(self, *, first: bool) -> torch.Tensor:
        """Goes a step on, and returns where that is as it would be stored."""
        moved = downhill(self.current, self.gradient, self.size, self.ball.threat.norm)
        if not first:  # α of the way to where the step alone would end, and 1 − α of the last way once more
            moved = self.ball.project(moved).lerp_(self.current, 1 - _MOMENTUM)
            moved.add_(self.current, alpha=1 - _MOMENTUM).sub_(self.previous, alpha=1 - _MOMENTUM)
        self.previous, self.current = self.current, self.ball.project(moved)
        return self.ball.snap(self.current)

    def note(self, loss: torch.Tensor) -> None:
        """What the images' losses are where they are now."""
        self.improved = self.improved + (loss < self.loss)
        better = loss < self.best
        self.loss, self.best = loss, torch.where(better, loss, self.best)
        self.at_best = chosen(better, self.current, self.at_best)
        self.gradient_at_best = chosen(better, self.gradient, self.gradient_at_best)

    def review(self, steps: int) -> None:
        """Halves the step size of images that made too little of these steps, and sends them back to their best place."""
        stuck = ~self.shrunk & (self.best >= self.best_at_review)
        self.shrunk = (self.improved < _PROGRESS * steps) | stuck
        self.size = torch.where(self.shrunk, self.size / 2, self.size)
        self.current = chosen(self.shrunk, self.at_best, self.current)
        self.previous = chosen(self.shrunk, self.at_best, self.previous)
        self.gradient = chosen(self.shrunk, self.gradient_at_best, self.gradient)
        self.improved, self.best_at_review = torch.zeros_like(self.loss), self.best


@dataclass(frozen=True)
class APGDL2(APGD):
    """Auto-PGD in the ℓ2 ball."""

    name: ClassVar[str] = "apgd-l2"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
