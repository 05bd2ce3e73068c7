"""The interface of attacks: the base class, and the view of the model that an attack is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol, get_args

import torch
from torch import nn

from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Norm, Threat

Access = Literal["gradient", "score", "none", "set"]
"""Access to the model that an attack needs: gradients, scores, none, or gradients on the whole image set (see
`iqarena.attacks.whole_set`)."""


class Target(Protocol):
    """The attacked model as seen by an attack. Every call is counted against the query limit."""

    def quality(self, images: torch.Tensor) -> torch.Tensor:
        """Return the qualities (N,) of images (N, 3, H, W) in [0, 1], without a gradient."""

    def quality_and_grad(
        self, images: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return qualities (N,), and the gradients (N, 3, H, W) of ``loss(qualities)`` (N,) with respect to the images."""

    def part(self, index: torch.Tensor) -> Target:
        """Return the target restricted to a subset of the images, given by an index or mask (N,); its queries count too."""

    def module(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
        """Return a differentiable module from images to ``loss(qualities)`` (N,), for other libraries; calls are counted."""

    @property
    def queries_left(self) -> int | None:
        """Remaining queries per image; None if there is no limit."""


class Generators:
    """Random streams, one per image, so that the draws for an image do not depend on its batch.

    Example:
        >>> together, alone = Generators([1, 2]).uniform(-1, 1, (3,)), Generators([2]).uniform(-1, 1, (3,))
        >>> torch.equal(together[1:], alone)
        True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self.streams)

    def part(self, index: Sequence[int]) -> Generators:
        """Return the streams of a subset of the images."""
        subset = Generators([])
        subset.streams = [self.streams[i] for i in index]
        return subset

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> torch.Tensor:
        """Draw values (N, *shape) uniformly from [low, high)."""
        return torch.stack([torch.rand(*shape, generator=s) for s in self.streams]) * (high - low) + low

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw standard normal values (N, *shape)."""
        return torch.stack([torch.randn(*shape, generator=s) for s in self.streams])

    def signs(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw signs (N, *shape), −1 or 1."""
        return self.uniform(-1, 1, shape).sign()

    def integers(self, high: int, shape: Sequence[int]) -> torch.Tensor:
        """Draw integers (N, *shape), int64, from [0, high)."""
        return torch.stack([torch.randint(high, tuple(shape), generator=s) for s in self.streams])

    def seed(self) -> int:
        """Draw a seed from the first stream, for a library that takes a single seed."""
        return int(torch.randint(2**31 - 1, (), generator=self.streams[0]))


class Attack(ABC):
    """An attack: a frozen dataclass of its parameters, without state, so that one object serves every model.

    The output of `run` is not trusted: the harness projects it, rounds it to 8 bit, verifies it and scores it again.

    Class attributes:
        name: registry name.
        access: access to the target that it needs: gradients, scores, or none.
        norms: supported threat models; the first is the default.
        objectives: supported objectives; the first is the default.
        control: whether it is a baseline that an attack must beat, not an attack; controls do not rank defenses.
        limited: whether it respects a query limit; if not, it is skipped in cells that have one.
        batches: whether it accepts several images at once; otherwise it receives them one at a time.
        min_size: minimum height and width of an image.
        paper: reference.
    """

    name: ClassVar[str]
    access: ClassVar[Access]
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    objectives: ClassVar[tuple[Kind, ...]] = get_args(Kind)
    control: ClassVar[bool] = False
    limited: ClassVar[bool] = True
    batches: ClassVar[bool] = True
    min_size: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    @property
    def passes(self) -> tuple[int, int] | None:
        """Maximum number of forward and backward passes per image, without that of the clean score; None if unknown."""
        return None

    def refusal(self, threat: Threat, height: int, width: int) -> str:
        """Return the reason why images of this size cannot be attacked under this threat model; empty if they can."""
        if min(height, width) < self.min_size:
            return f"{self.name} needs images of at least {self.min_size}×{self.min_size}, not {width}×{height}"
        return threat.refusal(height, width)

    @abstractmethod
    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        """Attack images.

        Args:
            target: the model, with the access that the attack declares.
            images: clean images (N, 3, H, W) in [0, 1], on the 8-bit grid; must not be changed in place.
            objective: the loss to minimise.
            threat: the ball to stay in.
            generator: the source of all randomness.

        Returns:
            Attacked images of the same shape.
        """


GRADIENT_ACCESS: tuple[Access, ...] = ("gradient", "set")
"""Declared access of the attacks that follow gradients."""
