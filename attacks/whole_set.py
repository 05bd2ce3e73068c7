"""Attacks on a whole image set: the target quality of an image depends on all the other images."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Threat


class SetAttack(Attack):
    """Base of set-level attacks: `look` at every image, `decide` on target qualities, then `run` toward them.

    `look` and `run` process one batch after another; only a few numbers per image are kept in between. `run` gets the
    objective "target" with the target quality of each image as its value.
    """

    access: ClassVar[Access] = "set"
    objectives: ClassVar[tuple[Kind, ...]] = ("target",)

    @abstractmethod
    def look(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        """Return K numbers (N, K) about each image of a batch; the arguments are those of `run`."""

    @abstractmethod
    def decide(self, clean: torch.Tensor, seen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the target quality (n,) of each image of the set, from all clean qualities (n,) and numbers (n, K)."""
