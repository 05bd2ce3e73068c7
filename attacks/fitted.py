"""Attacks that are fitted in advance, on images other than those attacked, and then cost almost nothing per image."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Threat

Fit = dict[str, torch.Tensor]
"""Fitted tensors by name, stored as safetensors."""


class FittedAttack(Attack):
    """Base of universal and generative attacks: `fit` learns a perturbation, `shift` applies it.

    The harness fits on images of other reference images than those attacked, caches the fit under a hash of everything it
    depends on, and records that hash.

    Class attributes:
        fit_images: maximum number of images that it is fitted on.
    """

    access: ClassVar[Access] = "gradient"
    objectives: ClassVar[tuple[Kind, ...]] = ("raise", "lower")
    fit_images: ClassVar[int] = 48

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 0  # fitting costs once for all images and is recorded with the fit

    @abstractmethod
    def fit(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators) -> Fit:
        """Fit on images (M, 3, h, w) in [0, 1].

        `target` and `objective` cover all M images; use their `part` for minibatches. `generator` has a single stream.
        """

    @abstractmethod
    def shift(self, fit: Fit, images: torch.Tensor, objective: Objective, threat: Threat) -> torch.Tensor:
        """Return the perturbation to add to images (N, 3, H, W) of any size."""

    def run(
        self,
        target: Target,
        images: torch.Tensor,
        objective: Objective,
        threat: Threat,
        generator: Generators,
        fit: Fit | None = None,
    ) -> torch.Tensor:
        """Apply the fitted perturbation; makes no queries.

        Raises:
            ValueError: without a fit.
        """
        if fit is None:
            raise ValueError(f"{self.name} has to be fitted first")
        moved = images + self.shift(fit, images, objective, threat)
        return threat.snap(threat.project(moved, images), images)
