"""Ensembles of attacks: several attacks on every image, of which the strongest result is kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Threat


class Ensemble(Attack):
    """Base of ensembles: each member runs with its defaults, and `badness` selects the result per image.

    The harness runs the members as cells of their own, so that an ensemble costs nothing if its members are run anyway.

    Class attributes:
        members: attacks, each with its objective.
    """

    access: ClassVar[Access] = "gradient"
    limited: ClassVar[bool] = False  # its members would have to share the query limit
    members: ClassVar[tuple[tuple[Attack, Kind], ...]]

    @abstractmethod
    def badness(self, objective: Objective, quality: torch.Tensor) -> torch.Tensor:
        """Return the damage (N,) of attacked images with these qualities (N,); the largest is selected."""

    @property
    def passes(self) -> tuple[int, int] | None:
        known = [member.passes for member, _ in self.members]
        if any(cost is None for cost in known):
            return None
        evaluations = len(known)  # the result of each member is scored once
        return sum(cost[0] for cost in known if cost) + evaluations, sum(cost[1] for cost in known if cost)

    def refusal(self, threat: Threat, height: int, width: int) -> str:
        reasons = [member.refusal(threat, height, width) for member, _ in self.members]
        return next(filter(None, reasons), "")

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        chosen, worst = images, self.badness(objective, objective.clean)
        for member, kind in self.members:
            attacked = member.run(target, images, objective.of_kind(kind), threat, generator)
            badness = self.badness(objective, target.quality(threat.snap(attacked, images)))
            better = badness > worst
            chosen = torch.where(better.view(-1, 1, 1, 1), attacked, chosen)
            worst = torch.where(better, badness, worst)
        return chosen
