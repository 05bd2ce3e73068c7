"""`standard` and `standard-rank`: parameter-free ensembles, the counterpart of AutoAttack (arXiv 2003.01690).

For a classifier, an attack on an image succeeds or fails. For a quality model there are two measures of damage that a single
attack does not maximise together: the shift of each score, and the loss of the rank order of a set. Scores pushed to their
extremes keep part of the order; exactly reflected scores reverse it. So one ensemble keeps the largest shift of each image,
the other the quality nearest to the mirrored one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.apgd import APGD
from iqarena.attacks.base import Attack
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.score_reflection_apgd import ScoreReflectionAPGD
from iqarena.attacks.square import Square
from iqarena.attacks.threat import Norm


class _Standard(Ensemble):
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01690 (the idea, for classifiers)"

    members: ClassVar[tuple[tuple[Attack, Kind], ...]] = (
        (ScoreReflectionAPGD(), "reflect"),
        (APGD(), "away"),
        (APGD(), "raise"),
        (APGD(), "lower"),
        (Square(), "away"),
    )


@dataclass(frozen=True)
class Standard(_Standard):
    """Auto-PGD with the objectives reflect, away, raise and lower, and `square`; keeps the largest quality shift per image.

    The cell is listed under the objective `away`; the criterion is |q − q₀|.
    """

    name: ClassVar[str] = "standard"
    objectives: ClassVar[tuple[Kind, ...]] = ("away",)

    def badness(self, objective: Objective, quality: torch.Tensor) -> torch.Tensor:
        return (quality - objective.clean).abs()


@dataclass(frozen=True)
class StandardRank(_Standard):
    """The members of `standard`; keeps the quality nearest to the mirrored one per image."""

    name: ClassVar[str] = "standard-rank"
    objectives: ClassVar[tuple[Kind, ...]] = ("reflect",)

    def badness(self, objective: Objective, quality: torch.Tensor) -> torch.Tensor:
        return -objective.loss(quality)
