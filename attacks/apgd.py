"""`apgd` and `apgd-l2`: Auto-PGD (Croce and Hein, ICML 2020, arXiv 2003.01690), on an objective instead of a margin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.best import Best, select
from iqarena.attacks.descent import downhill, random_point
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Ball, Norm, Threat

_MOMENTUM, _PROGRESS = 0.75, 0.75
"""α of the paper, and its ρ: the fraction of steps that must improve for a step size to be kept."""
_FIRST_RUN_STEP, _RESTART_STEP = 0.25, 2.0
"""Initial step size of the first run and of the restarts, as fractions of the ball's size; the latter is the paper's."""
_FIRST, _SHRINK, _LEAST = 0.22, 0.03, 0.06
"""Fractions of all steps: the first review of step sizes, the decrease of the interval between reviews, and its minimum."""


def reviews(steps: int) -> list[int]:
    """Return the steps after which step sizes are reviewed: ⌈p·steps⌉, with p growing by max(last growth − 0.03, 0.06)."""
    checkpoints, share, growth = [], 0.0, _FIRST
    while share + growth < 1:
        share += growth
        growth = max(growth - _SHRINK, _LEAST)
        checkpoints.append(math.ceil(round(share * steps, 6)))
    return checkpoints


@dataclass(frozen=True)
class APGD(Attack):
    """Projected steps with momentum; the step size is halved per image when progress stalls.

    The first run starts at the clean image with small steps; further runs follow the paper: they start at random points of
    the ball with steps across it. A large first step decides which optimum is found, and on some models and directions it is
    one that `pgd` with small steps beats; the combination is stronger than either. An image that has reached its objective
    is not attacked further. The result is the best iterate, evaluated after rounding to 8 bit.

    Attributes:
        steps: gradient steps of a run; fewer if the query limit is lower.
        restarts: number of runs; with 1 there is only the run from the clean image.
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
        """Return the objective that the attack optimises."""
        return objective

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        objective = self.aim(objective)
        best = Best(images, objective.loss(objective.clean))
        for restart in range(self.restarts):
            active = (~objective.reached(best.losses)).nonzero().flatten()
            if not len(active):
                break
            left = target.queries_left
            steps = self.steps if left is None else min(self.steps, left // (self.restarts - restart) - 1)
            if steps < 1:
                continue
            part, first = images[active], _FIRST_RUN_STEP
            start = part
            if restart > 0:  # drawn for the active images only: the draws of an image must not depend on its batch
                start, first = random_point(part, threat, generator.part(active.tolist())), _RESTART_STEP
            result = self._descend(target.part(active), start, part, objective.part(active), threat, steps, first)
            best.offer_part(active, result.images, result.losses)
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
        """Run one descent, and return its best iterates, including the start. Images that are done leave it at a review."""
        ball = Ball(threat, images)
        stored = ball.snap(start)
        quality, gradient = target.quality_and_grad(stored, objective.loss)
        loss = objective.loss(quality)
        overall = Best(stored, loss)
        size, none = torch.full_like(loss, first * threat.size), torch.zeros_like(loss)
        run = _Run(ball, start, start, gradient, loss, start, gradient, loss, loss, size, none, none.bool())
        index, review, since = torch.arange(len(images), device=images.device), set(reviews(steps)), 0
        for step in range(1, steps + 1):
            stored = run.step(first=step == 1)
            if step == steps:
                run.record(objective.loss(target.quality(stored)))
                break
            quality, run.gradient = target.quality_and_grad(stored, objective.loss)
            run.record(objective.loss(quality))
            if step in review:
                active = ~objective.reached(run.best)
                if not active.all():
                    overall.offer_part(index, run.ball.snap(run.at_best), run.best)
                    index, run = index[active], run.part(active)
                    target, objective = target.part(active), objective.part(active)
                    if not len(index):
                        break
                run.review(step - since)
                since = step
        overall.offer_part(index, run.ball.snap(run.at_best), run.best)
        return overall


@dataclass
class _Run:
    """The state of a run, as tensors (N, 3, H, W) and (N,), so that a subset of the images can be dropped."""

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
        """Return the state of a subset of the images."""
        return _Run(**{name: value.part(mask) if name == "ball" else value[mask] for name, value in vars(self).items()})

    def step(self, *, first: bool) -> torch.Tensor:
        """Take a step, and return the new images rounded to 8 bit."""
        moved = downhill(self.current, self.gradient, self.size, self.ball.threat.norm)
        if not first:  # α times the step itself plus 1 − α times the previous step
            moved = self.ball.project(moved).lerp_(self.current, 1 - _MOMENTUM)
            moved.add_(self.current, alpha=1 - _MOMENTUM).sub_(self.previous, alpha=1 - _MOMENTUM)
        self.previous, self.current = self.current, self.ball.project(moved)
        return self.ball.snap(self.current)

    def record(self, loss: torch.Tensor) -> None:
        """Record the losses of the images at the current iterate."""
        self.improved = self.improved + (loss < self.loss)
        better = loss < self.best
        self.loss, self.best = loss, torch.where(better, loss, self.best)
        self.at_best = select(better, self.current, self.at_best)
        self.gradient_at_best = select(better, self.gradient, self.gradient_at_best)

    def review(self, steps: int) -> None:
        """Halve the step size of images with too little progress in these steps, and reset them to their best iterate."""
        stuck = ~self.shrunk & (self.best >= self.best_at_review)
        self.shrunk = (self.improved < _PROGRESS * steps) | stuck
        self.size = torch.where(self.shrunk, self.size / 2, self.size)
        self.current = select(self.shrunk, self.at_best, self.current)
        self.previous = select(self.shrunk, self.at_best, self.previous)
        self.gradient = select(self.shrunk, self.gradient_at_best, self.gradient)
        self.improved, self.best_at_review = torch.zeros_like(self.loss), self.best


@dataclass(frozen=True)
class APGDL2(APGD):
    """Auto-PGD in the ℓ2 ball."""

    name: ClassVar[str] = "apgd-l2"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
