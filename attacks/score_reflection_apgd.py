"""`score-reflection-apgd`: the strongest score reflection attack, with Auto-PGD's momentum and step sizes.

Our reconstruction of the objective from the abstracts of arXiv 2404.19567 (see `iqarena.attacks.score_reflection`); the
optimiser is that of Croce and Hein, ICML 2020, arXiv 2003.01690.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iqarena.attacks.apgd import APGD
from iqarena.attacks.objective import Kind, Mirror, Objective


@dataclass(frozen=True)
class ScoreReflectionAPGD(APGD):
    """Auto-PGD that minimises (q − (2m − q₀))², with restarts for images that have not reached their mirrored quality.

    Attributes:
        steps, restarts: as for `apgd`.
        mirror: m: the middle of the range ("mid"), the mean clean quality of the set ("mean"), or the label ("label").
    """

    name: ClassVar[str] = "score-reflection-apgd"
    objectives: ClassVar[tuple[Kind, ...]] = ("reflect",)
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.19567 (our reconstruction from the abstract)"

    restarts: int = 3
    mirror: Mirror = "mid"

    def aim(self, objective: Objective) -> Objective:
        return objective.about(self.mirror)
