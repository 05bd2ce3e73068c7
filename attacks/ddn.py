"""`ddn`: decoupled direction and norm (Rony et al., CVPR 2019, arXiv 1811.09600), a least-norm attack."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.best import Best
from iqarena.attacks.descent import euclidean
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Norm, Threat


@dataclass(frozen=True)
class DDN(Attack):
    """The shortest perturbation found that moves quality by `amount`; its direction and its length are updated separately.

    Each step descends the loss and then sets the length of the perturbation: (1 − γ) times the last one if that moved the
    quality by `amount`, (1 + γ) times if not, and never beyond the ball. If no image within the ball reaches `amount`, the
    one with the largest change of quality is returned.

    Attributes:
        amount: required change of quality.
        steps: gradient steps; fewer if the query limit is lower.
        gamma: γ, in (0, 1).
    """

    name: ClassVar[str] = "ddn"
    access: ClassVar[Access] = "gradient"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    objectives: ClassVar[tuple[Kind, ...]] = ("raise", "lower", "away")
    paper: ClassVar[str] = "https://arxiv.org/abs/1811.09600"

    amount: float = 0.2
    steps: int = 100
    gamma: float = 0.05

    def __post_init__(self) -> None:
        if not self.amount > 0 or self.steps < 1 or not 0 < self.gamma < 1:
            raise ValueError(f"{self.name}: amount must be above 0, steps at least 1 and gamma in (0, 1)")

    @property
    def passes(self) -> tuple[int, int]:
        return self.steps + 1, self.steps

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        left = target.queries_left
        steps = self.steps if left is None else min(self.steps, left - 1)
        if steps < 1:
            return images
        clean = objective.loss(objective.clean)
        best = Best(images, torch.zeros_like(clean))
        length = torch.full_like(clean, threat.size)
        attacked = images
        for step in range(steps):
            stored = threat.snap(attacked, images)
            quality, gradient = target.quality_and_grad(stored, objective.loss)
            if step > 0:
                moved = clean - objective.loss(quality)
                best.offer(stored, self.rank(moved, threat.distance(stored, images) / threat.size))
                length = length * torch.where(moved >= self.amount, 1 - self.gamma, 1 + self.gamma)
                length = length.clamp(max=threat.size)
            # the step size follows the paper's cosine schedule down to a hundredth, but relative to the current length: the
            # initial length is the whole ball here, often ten times what is needed, and such steps would undo earlier ones
            share = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
            stride = (share * length / euclidean(gradient)).view(-1, 1, 1, 1)
            shift = (attacked - images).addcmul_(gradient, stride, value=-1)
            shift.mul_((length / euclidean(shift)).view(-1, 1, 1, 1))
            attacked = shift.add_(images).clamp_(0, 1)
        stored = threat.snap(attacked, images)
        moved = clean - objective.loss(target.quality(stored))
        best.offer(stored, self.rank(moved, threat.distance(stored, images) / threat.size))
        return best.images

    def rank(self, moved: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Return a loss (N,) that ranks images moved by `amount` first, by length, then the others by change of quality."""
        return torch.where(moved >= self.amount, length - 3, -moved / self.amount)
