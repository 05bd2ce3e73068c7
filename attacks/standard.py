"""`standard` and `standard-rank`: ensembles without parameters, what AutoAttack is for classifiers (arXiv 2003.01690).

A classifier's image is lost or not; a quality model loses two things that no single image shows together: how far a
score can be moved, and whether the order of a set survives. A model pushed to its limits keeps part of its order, one
reflected exactly loses all of it. So one ensemble keeps the largest shift of each image, the other the quality nearest
to the image's mirror.
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
    """Reflection, away, up and down by Auto-PGD, and `square`; of each image the largest quality shift counts.

    The cell is listed under the objective `away`; what counts is |q − q₀|.
    """

    name: ClassVar[str] = "standard"
    objectives: ClassVar[tuple[Kind, ...]] = ("away",)

    def badness(self, objective: Objective, quality: torch.Tensor) -> torch.Tensor:
        return (quality - objective.clean).abs()


@dataclass(frozen=True)
class StandardRank(_Standard):
    """The members of `standard`; of each image the quality nearest to its mirror image counts."""

    name: ClassVar[str] = "standard-rank"
    objectives: ClassVar[tuple[Kind, ...]] = ("reflect",)

    def badness(self, objective: Objective, quality: torch.Tensor) -> torch.Tensor:
        return -objective.loss(quality)
