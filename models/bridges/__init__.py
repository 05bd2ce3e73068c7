"""Bridges to models that live elsewhere, named ``prefix:what``: a library's metric, somebody's file.

Such a model seldom says what its scores mean. What it does not say itself is given in brackets behind its name, and what
is not given either is measured (see `iqarena.bench.inference.measured_info`):

    torchscript:net.pt[low=0,high=100,higher_is_better=false,min_size=64]
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch

from iqarena.models.base import ModelInfo, QualityModel


@dataclass(frozen=True)
class Facts:
    """What is known of a model's scores; None where nobody has said.

    Attributes:
        low, high: the raw scores that become quality 0 and 1 (or 1 and 0, see `higher_is_better`).
        higher_is_better: direction of the raw score.
        min_size: least height and width in pixels.
    """

    low: float | None = None
    high: float | None = None
    higher_is_better: bool | None = None
    min_size: int | None = None

    def __post_init__(self) -> None:
        if self.min_size is not None and self.min_size < 1:
            raise ValueError("min_size must be at least 1")
        if any(bound is not None and not math.isfinite(bound) for bound in (self.low, self.high)):
            raise ValueError("low and high must be finite")

    def or_else(self, other: Facts) -> Facts:
        """These facts, and those of another where there are none here."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Facts(**{name: theirs if own is None else own for name, own, theirs in pairs})


@dataclass(frozen=True)
class BridgedInfo(ModelInfo):
    """Facts about a bridged model.

    Attributes:
        sources: where each of them comes from, in words.
    """

    sources: str = ""


class Bridge(QualityModel):
    """A model from elsewhere. Its `info` is whole only once the facts are known; `iqarena.bench.inference.loading` sees to that.

    Args:
        what: what stands behind the prefix.
        options: what stands in brackets, facts apart.

    Raises:
        ValueError: where it cannot be opened; the message is one line that says what to do.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # what stands behind the prefix, in words
    differentiable: ClassVar[bool] = True  # False where no gradient can ever come back
    stated: Facts  # what the model says itself
    sha256: str  # of its weights

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__()
        if not what:
            raise ValueError(f"{self.name} wants a name behind the colon: {self.about}")
        self.stated = Facts()
        self.info = ModelInfo(f"{self.name}{what}", stochastic=True)

    @classmethod
    def variants(cls) -> list[str]:
        """None are listed: there is no end of files, and of metrics as many as the installed library has."""
        return []

    @abstractmethod
    def ask(self, images: torch.Tensor) -> torch.Tensor:
        """Raw scores of images (N, 3, H, W) in [0, 1], in any shape of N numbers."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.ask(images)
        if not isinstance(scores, torch.Tensor) or scores.numel() != len(images):
            found = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise ValueError(f"{self.info.name}: returned {found} for {len(images)} images; a model returns a score each")
        return scores.reshape(len(images)).to(images)


class FileBridge(Bridge):
    """A model in one file, whose sha256 stands for its weights."""

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__(what)
        if options:
            known = ", ".join(field.name for field in fields(Facts))
            raise ValueError(f"{self.info.name} has no parameter {next(iter(options))!r}; known are {known}")
        try:
            self.content = Path(what).read_bytes()
        except OSError as error:
            raise ValueError(f"{what}: cannot be read ({error.strerror}); {self.name} wants {self.about}") from None
        self.sha256 = hashlib.sha256(self.content).hexdigest()
