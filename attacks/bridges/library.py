"""What the bridges to other libraries share: heads that make a quality model look like a classifier, and randomness.

Other libraries attack classifiers. A score has no classes, but two can be drawn honestly, with logits [z/2, −z/2], the
first being the class of the clean image. With the objective's loss ℓ, and ℓ₀ that of the clean image:

    margin   z = 1 + (ℓ − ℓ₀)/amount        the class flips exactly where quality has moved by `amount` the objective's
                                            way: a library's image of least norm that is misclassified is then the
                                            image of least norm whose quality has moved by that much
    rank     z = 1 + d/(1 + |d|), d = ℓ − ℓ₀   above 0 whatever the image and rising with ℓ: the class never flips, so
                                            an attack that stops at success runs on, and one that compares losses is exact
    gain     z = ℓ − ℓ₀ + 10⁻⁶              for attacks that keep nothing without success: any gain is one
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
"""How far a least-norm attack moves quality if it is not told."""

ONE_WAY: tuple[Kind, ...] = ("raise", "lower", "away")
"""The objectives whose loss is quality itself up to its sign, so that a moved amount has a meaning."""

LENGTHS = tuple(1.3**power for power in range(12))
"""Factors by which a least-norm change is lengthened, one after another; up to 18."""

SET_HERE = ("eps", "max_epsilon", "norm", "seed", "targeted", "verbose")
"""Constructor parameters that follow from the threat model and the run."""


class Losses(nn.Module):
    """ℓ (N,) of images. Of one image a library may send many candidates, which are asked for one by one."""

    def __init__(self, target: Target, objective: Objective, access: Access) -> None:
        super().__init__()
        # the libraries ask a weight for the device
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
            images.register_hook(torch.Tensor.contiguous)  # the libraries `view` gradients, whatever a model's memory format
        if len(images) == self.expected:
            return self.ask(images)
        return torch.cat([self.ask(image[None]) for image in images])


class Head(nn.Module):
    """[z/2, −z/2], with z a function of ℓ − ℓ₀, and what else a library wants made of them."""

    def __init__(
        self,
        losses: Losses,
        objective: Objective,
        z: Callable[[torch.Tensor], torch.Tensor],
        last: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        self.losses, self.z, self.last = losses, z, last
        self.start = objective.loss(objective.clean)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = self.z(self.losses(images) - self.start) / 2
        return self.last(torch.stack([half, -half], dim=1))


def margin(amount: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """z of the least-norm attacks."""
    return lambda change: 1 + change / amount


def rank(change: torch.Tensor) -> torch.Tensor:
    """z of the attacks that stop at success; in float64, that it may not hide small differences of ℓ."""
    change = change.double()
    return 1 + change / (1 + change.abs())


def gain(change: torch.Tensor) -> torch.Tensor:
    """z of the attacks that keep nothing without success."""
    return change + 1e-6


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global random streams, which the libraries draw from, seeded; their warnings silenced."""
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
    """Base of the bridged attacks. What the library returns is projected into the threat's ball and rounded.

    Attributes:
        variant: the library's class.
        parameters: of that class's constructor; those that follow from the threat model are set here.
    """

    access: ClassVar[Access] = "gradient"
    limited: ClassVar[bool] = False
    batches: ClassVar[bool] = False  # the libraries' random streams are global, and images must not depend on their batch
    set_here: ClassVar[tuple[str, ...]] = ()

    variant: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.parameters:
            if key in SET_HERE + self.set_here:
                raise ValueError(f"{self.name}: {key} is set by the benchmark; leave it out")

    @property
    def given(self) -> dict[str, Any]:
        """The parameters that are the library's."""
        return self.parameters

    @abstractmethod
    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        """What the library makes of the images; the global random streams are seeded, with `seed`."""

    def found(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        """`craft` with the global streams seeded; where a flat image has led the library to NaN, the clean value."""
        seed = generator.seed()
        with seeded(seed):
            attacked = self.craft(target, images, objective, threat, seed).to(images)
        return torch.where(attacked.isfinite(), attacked, images)

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        attacked = self.found(target, images, objective, threat, generator)
        return threat.snap(threat.project(attacked, images), images)


@dataclass(frozen=True)
class LeastNorm(LibraryAttack):
    """Base of the attacks that look for the least change that moves quality by a stated amount.

    The least change is often below half a level of 8 bit nearly everywhere, and rounding would undo it. So the library's
    change is lengthened, along its own line, until the image as it is stored has moved by the amount or the ball ends.

    Attributes:
        parameters: of the class's constructor, and `amount`: how far to move quality, in (0, 1]; 0.1 if left out.
    """

    objectives: ClassVar[tuple[Kind, ...]] = ONE_WAY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.amount, int | float) or not 0 < self.amount <= 1:
            raise ValueError(f"{self.name}: amount is a change of quality, in (0, 1]; not {self.amount!r}")

    @property
    def amount(self) -> float:
        """How far to move quality."""
        amount: float = self.parameters.get("amount", AMOUNT)
        return amount

    @property
    def given(self) -> dict[str, Any]:
        return {key: value for key, value in self.parameters.items() if key != "amount"}

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        change = self.found(target, images, objective, threat, generator) - images
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
