"""Attacks that are learnt beforehand, on images other than those attacked, and then cost an image next to nothing."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Threat

Fit = dict[str, torch.Tensor]
"""What was learnt: tensors by name, kept as safetensors."""


class FittedAttack(Attack):
    """Base of universal and generative attacks: `fit` learns, `shift` applies.

    The harness fits on images of other references than those attacked, keeps the fit under a hash of all that it
    depends on, and records that hash.

    Class attributes:
        fit_images: how many images it is fitted on, at most.
    """

    access: ClassVar[Access] = "gradient"
    objectives: ClassVar[tuple[Kind, ...]] = ("raise", "lower")
    fit_images: ClassVar[int] = 48

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 0  # learning is paid once for all images and recorded with the fit

    @abstractmethod
    def fit(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators) -> Fit:
        """Learn from images (M, 3, h, w) in [0, 1]; `target` and `objective` are of all M, use their `part`.

        `generator` has a single stream.
        """

    @abstractmethod
    def shift(self, fit: Fit, images: torch.Tensor, objective: Objective, threat: Threat) -> torch.Tensor:
        """What to add to images (N, 3, H, W) of any size."""

    def run(
        self,
        target: Target,
        images: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
        fit: Fit | None = None,
    ) -> torch.Tensor:
        """Apply what was learnt; asks the model nothing.

        Raises:
            ValueError: without a fit.
        """
        if fit is None:
            raise ValueError(f"{self.name} has to be fitted first")
        moved = images + self.shift(fit, images, objective, threat)
        return threat.snap(threat.project(moved, images), images)
