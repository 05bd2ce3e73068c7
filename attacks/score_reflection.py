"""`score-reflection`, `score-reflection-fgsm` and `score-reflection-away`: the score reflection attack on quality models.

Our reconstruction from the abstracts of Wang and Yuan, arXiv 2404.19567, which propose a score reflection attack; no
equation of theirs is public. An image of quality q₀ is moved to the mirrored quality 2m − q₀: good images come out
bad and bad ones good. Attacks that push all images one way may leave their order as it was; this one attacks the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.descent import GradientDescent
from iqarena.attacks.objective import Kind, Mirror, Objective


@dataclass(frozen=True)
class ScoreReflection(GradientDescent):
    """Projected sign steps down (q − (2m − q₀))², from the clean image; stops at the mirrored quality.

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
    """The one-step form: a single step to the edge of the ball along the gradient's sign (l2: along the gradient).

    It always takes the whole ball. Where that carries quality farther past its mirrored value than it was away from it, the
    clean image is the better one and counts.

    Attributes:
        mirror: as for `score-reflection`.
    """

    name: ClassVar[str] = "score-reflection-fgsm"

    steps: int = 1
    step_size: float = 1.0


@dataclass(frozen=True)
class ScoreReflectionAway(ScoreReflection):
    """The non-stopping form: ascends sign(m − q₀)·q, so an image that crosses the mirror is pushed on."""

    name: ClassVar[str] = "score-reflection-away"
    objectives: ClassVar[tuple[Kind, ...]] = ("away",)
