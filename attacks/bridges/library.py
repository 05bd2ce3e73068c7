"""Base classes of the bridges to other libraries: heads that present a quality model as a classifier, and seeding.

Other libraries attack classifiers. A score has no classes, but it can be turned into two of them, with logits [z/2, −z/2],
the first being the class of the clean image. With the objective's loss ℓ, and ℓ₀ that of the clean image:

    margin   z = 1 + (ℓ − ℓ₀)/amount           the class flips exactly where quality has moved by `amount` in the direction
                                               of the objective: the misclassified image of least norm is then the image
                                               of least norm whose quality has moved by that amount
    rank     z = 1 + d/(1 + |d|), d = ℓ − ℓ₀   always above 0 and increasing in ℓ: the class never flips, so an attack that
                                               stops at success continues, and one that compares losses is exact
    gain     z = ℓ − ℓ₀ + 10⁻⁶                 for attacks that return nothing without success: any gain is a success
"""

from __future__ import annotations

import random
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from iqarena.attacks.base import Access, Attack, Generators, Target
from iqarena.attacks.best import Best
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Threat

AMOUNT = 0.1
"""Default amount by which a least-norm attack moves quality."""

ONE_WAY: tuple[Kind, ...] = ("raise", "lower", "away")
"""Objectives whose loss is the quality up to its sign, so that an amount of change is well defined."""

LENGTHS = tuple(1.3**power for power in range(12))
"""Factors by which a least-norm perturbation is scaled, one after another; up to 18."""

SET_HERE = ("eps", "max_epsilon", "norm", "seed", "targeted", "verbose")
"""Constructor parameters that are determined by the threat model and the run."""


class Losses(nn.Module):
    """The losses ℓ (N,) of images. Many candidates that a library sends for a single image are evaluated one by one."""

    def __init__(self, target: Target, objective: Objective, access: Access) -> None:
        super().__init__()
        # the libraries read the device from a parameter
        self.anchor = nn.Parameter(torch.zeros((), device=objective.clean.device), requires_grad=False)
        self.expected = len(objective.clean)
        self.ask: Callable[[torch.Tensor], torch.Tensor]
        if access == "gradient":
            self.ask = target.module(objective.loss)
        else:
            self.ask = lambda images: objective.loss(target.quality(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.float()
        if images.requires_grad:
            images = images.view_as(images)
            images.register_hook(torch.Tensor.contiguous)  # the libraries call `view` on gradients, which needs this format
        if len(images) == self.expected:
            return self.ask(images)
        return torch.cat([self.ask(image[None]) for image in images])


class Head(nn.Module):
    """The logits [z/2, −z/2], with z a function of ℓ − ℓ₀, and a final transform that some attacks need."""

    def __init__(
        self,
        losses: Losses,
        objective: Objective,
        z: Callable[[torch.Tensor], torch.Tensor],
        transform: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.losses, self.z, self.transform = losses, z, transform
        self.clean_loss = objective.loss(objective.clean)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = self.z(self.losses(images) - self.clean_loss) / 2
        return self.transform(torch.stack([half, -half], dim=1))


def margin(amount: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that computes z for least-norm attacks."""
    return lambda change: 1 + change / amount


def rank(change: torch.Tensor) -> torch.Tensor:
    """Compute z for attacks that stop at success; in float64, to preserve small differences of ℓ."""
    change = change.double()
    return 1 + change / (1 + change.abs())


def gain(change: torch.Tensor) -> torch.Tensor:
    """Compute z for attacks that return nothing without success."""
    return change + 1e-6


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random streams, which the libraries draw from, and silence warnings, inside the context."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@dataclass(frozen=True)
class LibraryAttack(Attack):
    """Base of the bridged attacks. The output of the library is projected into the ball and rounded.

    Attributes:
        variant: name of the library's class.
        parameters: parameters of its constructor; those determined by the threat model are set here.
    """

    access: ClassVar[Access] = "gradient"
    limited: ClassVar[bool] = False
    batches: ClassVar[bool] = False  # the random streams are global, and results must not depend on the batch
    set_here: ClassVar[tuple[str, ...]] = ()

    variant: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.parameters:
            if key in SET_HERE + self.set_here:
                raise ValueError(f"{self.name}: {key} is set by the benchmark; leave it out")

    @property
    def given(self) -> dict[str, Any]:
        """The parameters that are passed to the library."""
        return self.parameters

    @abstractmethod
    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        """Run the library's attack; the global random streams are already seeded with `seed`."""

    def craft_seeded(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        """Run `craft` with seeded global streams; non-finite values, as for flat images, are replaced by the clean ones."""
        seed = generator.seed()
        with seeded(seed):
            attacked = self.craft(target, images, objective, threat, seed).to(images)
        return torch.where(attacked.isfinite(), attacked, images)

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        attacked = self.craft_seeded(target, images, objective, threat, generator)
        return threat.snap(threat.project(attacked, images), images)


@dataclass(frozen=True)
class LeastNorm(LibraryAttack):
    """Base of the attacks that find the least perturbation that moves quality by a given amount.

    The least perturbation is often below half an 8-bit level almost everywhere, and rounding would remove it. So it is
    scaled up, in its own direction, until the image rounded to 8 bit has moved by the amount or the ball is exhausted.

    Attributes:
        parameters: parameters of the constructor, and `amount`: the required change of quality, in (0, 1]; 0.1 by default.
    """

    objectives: ClassVar[tuple[Kind, ...]] = ONE_WAY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.amount, int | float) or not 0 < self.amount <= 1:
            raise ValueError(f"{self.name}: amount is a change of quality, in (0, 1]; not {self.amount!r}")

    @property
    def amount(self) -> float:
        """The required change of quality."""
        amount: float = self.parameters.get("amount", AMOUNT)
        return amount

    @property
    def given(self) -> dict[str, Any]:
        return {key: value for key, value in self.parameters.items() if key != "amount"}

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        change = self.craft_seeded(target, images, objective, threat, generator) - images
        wanted = objective.loss(objective.clean) - self.amount
        best = Best(images, objective.loss(objective.clean))
        for length in LENGTHS:
            short = (best.losses > wanted) & (change != 0).flatten(1).any(dim=1)
            if not short.any():
                break
            stored = threat.snap(threat.project(images + length * change, images), images)
            quality = target.quality(stored)
            best.offer(stored, torch.where(short, objective.loss(quality), best.losses))
        return best.images
