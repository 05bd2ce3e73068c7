"""`my-idea`: TODO what it is, and where it comes from (authors, venue, year, link)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.descent import steepest
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Norm, Threat


@dataclass(frozen=True)
class MyIdea(Attack):
    """TODO in a sentence. As it stands: one step along the gradient's sign (l2: along the gradient).

    Attributes:
        step_size: length of the step as a share of the threat's size, above 0.
    """

    name: ClassVar[str] = "my-idea"
    access: ClassVar[Access] = "gradient"  # TODO "score" if it asks for scores only, "none" if for nothing
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")  # TODO the threat models that it supports
    paper: ClassVar[str] = "unpublished"  # TODO a link

    step_size: float = 1.0

    def __post_init__(self) -> None:
        if not self.step_size > 0:
            raise ValueError(f"{self.name}: step_size must be above 0")

    @property
    def passes(self) -> tuple[int, int]:
        return 1, 1  # TODO forward and backward passes an image, at most

    def run(self, target: Target, images: Tensor, objective: Objective, threat: Threat, generator: Generators) -> Tensor:
        if target.queries_left == 0:  # ask before every question: a threat model may limit them
            return images
        _, gradient = target.quality_and_grad(images, objective.loss)
        # TODO your idea. Draw from `generator` only; what is returned has to be in the ball, on the 8-bit grid
        attacked = images - self.step_size * threat.size * steepest(gradient, threat.norm)
        return threat.snap(threat.project(attacked, images), images)
