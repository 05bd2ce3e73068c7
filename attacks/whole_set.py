"""Attacks on a whole image set: what one image should become depends on all the others."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Threat


class SetAttack(Attack):
    """Base of set-level attacks: `look` at every image, `decide` over the set, then `run` toward each image's aim.

    `look` and `run` see one batch after the other, so images stream through; only a few numbers each are kept. `run`
    gets the objective "target" with each image's aim as its value.
    """

    access: ClassVar[Access] = "set"
    objectives: ClassVar[tuple[Kind, ...]] = ("target",)

    @abstractmethod
    def look(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        """Some numbers (N, K) about each image of a batch; arguments as for `run`."""

    @abstractmethod
    def decide(self, clean: torch.Tensor, seen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The quality (n,) that each image of the set should get, from all clean qualities (n,) and numbers (n, K)."""
