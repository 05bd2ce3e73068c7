"""Bridges to external models, named ``prefix:what``: a metric of a library or a model in a file.

Such a model rarely states the meaning of its scores. Facts that it does not state are given in brackets after its name, and
those that are not given either are measured (see `iqarena.bench.inference.measured_info`):

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
    """Known facts about the scores of a model; None if unknown.

    Attributes:
        low, high: the raw scores that map to quality 0 and 1 (or 1 and 0, see `higher_is_better`).
        higher_is_better: direction of the raw score.
        min_size: minimum height and width in pixels.
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
        """Return these facts, with unknown ones taken from `other`."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Facts(**{name: fallback if value is None else value for name, value, fallback in pairs})


@dataclass(frozen=True)
class BridgedInfo(ModelInfo):
    """Facts about a bridged model.

    Attributes:
        sources: description of where each fact comes from.
    """

    sources: str = ""


class Bridge(QualityModel):
    """An external model. Its `info` is completed by `iqarena.bench.inference.loading` once the facts are known.

    Args:
        what: the part of the name after the prefix.
        options: the parameters in brackets, without the facts.

    Raises:
        ValueError: if it cannot be opened; the message is one line that says what to do.
    """

    name: ClassVar[str]
    about: ClassVar[str]  # description of the part of the name after the prefix
    differentiable: ClassVar[bool] = True  # False if there is never a gradient
    stated: Facts  # the facts that the model states itself
    sha256: str  # hash of its weights

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__()
        if not what:
            raise ValueError(f"{self.name} needs a name after the colon: {self.about}")
        self.stated = Facts()
        self.info = ModelInfo(f"{self.name}{what}", stochastic=True)

    @classmethod
    def variants(cls) -> list[str]:
        """Return an empty list: files cannot be enumerated, and the metrics depend on the installed library."""
        return []

    @abstractmethod
    def ask(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the raw scores of images (N, 3, H, W) in [0, 1], as N numbers in any shape."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = self.ask(images)
        if not isinstance(scores, torch.Tensor) or scores.numel() != len(images):
            returned = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise ValueError(
                f"{self.info.name}: returned {returned} for {len(images)} images; a model returns one score per image"
            )
        return scores.reshape(len(images)).to(images)


class FileBridge(Bridge):
    """A model in a single file, whose sha256 identifies its weights."""

    def __init__(self, what: str, **options: Any) -> None:
        super().__init__(what)
        if options:
            known = ", ".join(field.name for field in fields(Facts))
            raise ValueError(f"{self.info.name} has no parameter {next(iter(options))!r}; known are {known}")
        try:
            self.content = Path(what).read_bytes()
        except OSError as error:
            raise ValueError(f"{what}: cannot be read ({error.strerror}); {self.name} needs {self.about}") from None
        self.sha256 = hashlib.sha256(self.content).hexdigest()
