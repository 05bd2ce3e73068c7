"""`score-reflection`, `score-reflection-fgsm` and `score-reflection-away`: the score reflection attack on quality models.

Our reconstruction from the abstracts of Wang and Yuan, arXiv 2404.19567, which propose a score reflection attack; their
equations are not public. An image of quality q₀ is moved to the mirrored quality 2m − q₀: good images get low scores and bad
images high ones. Attacks that move all scores in one direction may preserve the rank order; this one reverses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.descent import GradientDescent
from iqarena.attacks.objective import Kind, Mirror, Objective


@dataclass(frozen=True)
class ScoreReflection(GradientDescent):
    """Projected sign steps that minimise (q − (2m − q₀))², from the clean image; the optimum is the mirrored quality.

    Attributes:
        mirror: m: the middle of the range ("mid"), the mean clean quality of the set ("mean"), or the label ("label").
    """

    name: ClassVar[str] = "score-reflection"
    objectives: ClassVar[tuple[Kind, ...]] = ("reflect",)
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.19567 (our reconstruction from the abstract)"

    random_start: bool = False
    mirror: Mirror = "mid"

    def aim(self, objective: Objective) -> Objective:
        return objective.about(self.mirror)


@dataclass(frozen=True)
class ScoreReflectionFGSM(ScoreReflection):
    """The one-step variant: a single step to the edge of the ball along the gradient's sign (l2: along the gradient).

    It always uses the whole ball. If the step overshoots so far that the quality ends farther from its mirrored value than
    at the start, the clean image is returned.

    Attributes:
        mirror: as for `score-reflection`.
    """

    name: ClassVar[str] = "score-reflection-fgsm"

    steps: int = 1
    step_size: float = 1.0


@dataclass(frozen=True)
class ScoreReflectionAway(ScoreReflection):
    """The non-stopping variant: maximises sign(m − q₀)·q, so an image that has crossed the mirror is pushed further."""

    name: ClassVar[str] = "score-reflection-away"
    objectives: ClassVar[tuple[Kind, ...]] = ("away",)
