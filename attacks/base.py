"""What an attack is here, and all that it gets to see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol, get_args

import torch
from torch import nn

from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Norm, Threat

Access = Literal["gradient", "score", "none", "set"]
"""What an attack needs: gradients, scores, nothing, or gradients and the whole image set (see `iqarena.attacks.whole_set`)."""


class Target(Protocol):
    """The attacked model as an attack sees it. Every call is counted and paid from the query limit."""

    def quality(self, images: torch.Tensor) -> torch.Tensor:
        """Qualities (N,) of images (N, 3, H, W) in [0, 1]; no gradient."""

    def quality_and_grad(
        self, images: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Qualities (N,), and the gradient (N, 3, H, W) of ``loss(qualities)`` (N,), each by its own image."""

    def part(self, index: torch.Tensor) -> Target:
        """The same target for some of the images, by an index or mask (N,); counts add up in the whole."""

    def module(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
        """A differentiable module from images to ``loss(qualities)`` (N,), for other libraries; counted as well."""

    @property
    def queries_left(self) -> int | None:
        """Questions an image that are still allowed; None is no limit."""


class Generators:
    """A random stream an image, so that what is drawn does not depend on the batch that an image is in.

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
        """The same streams for some of the images."""
        some = Generators([])
        some.streams = [self.streams[i] for i in index]
        return some

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> torch.Tensor:
        """(N, *shape), uniform in [low, high)."""
        return torch.stack([torch.rand(*shape, generator=s) for s in self.streams]) * (high - low) + low

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """(N, *shape), standard normal."""
        return torch.stack([torch.randn(*shape, generator=s) for s in self.streams])

    def signs(self, shape: Sequence[int]) -> torch.Tensor:
        """(N, *shape), −1 or 1."""
        return self.uniform(-1, 1, shape).sign()

    def integers(self, high: int, shape: Sequence[int]) -> torch.Tensor:
        """(N, *shape) int64 in [0, high)."""
        return torch.stack([torch.randint(high, tuple(shape), generator=s) for s in self.streams])

    def seed(self) -> int:
        """A fresh seed from the first stream, for a library that takes only one."""
        return int(torch.randint(2**31 - 1, (), generator=self.streams[0]))


class Attack(ABC):
    """An attack: a frozen dataclass of its parameters. No state, no model inside; one object serves every model.

    What `run` returns is never trusted: the harness projects, rounds to 8 bit, verifies and scores it anew.

    Class attributes:
        name: registry name.
        access: what it needs of the target: its gradient, its scores, or nothing.
        norms: threat models that it supports; the first is its usual one.
        objectives: objectives that it can follow; the first is its usual one.
        control: whether it is no real attack but what an attack must beat; controls do not rank defenses.
        limited: whether it keeps to a query limit; one that cannot is skipped where there is one.
        batches: whether several images may go in at once; else they come one at a time.
        min_size: least height and width of an image.
        paper: where it comes from.
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
        """Forward and backward passes an image, at most, beside the clean score's; None where nobody can say."""
        return None

    def refusal(self, threat: Threat, height: int, width: int) -> str:
        """Why images of this size cannot be attacked under this threat model; empty if they can."""
        if min(height, width) < self.min_size:
            return f"{self.name} needs images of at least {self.min_size}×{self.min_size}, not {width}×{height}"
        return threat.refusal(height, width)

    @abstractmethod
    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        """Attack images.

        Args:
            target: what may be asked of the model.
            images: clean images (N, 3, H, W) in [0, 1], on the 8-bit grid; not to be changed in place.
            objective: the loss to make small.
            threat: the ball to stay in.
            generator: all randomness.

        Returns:
            Attacked images, the same shape.
        """


GRADIENT_ACCESS: tuple[Access, ...] = ("gradient", "set")
"""What attacks that follow gradients declare."""
