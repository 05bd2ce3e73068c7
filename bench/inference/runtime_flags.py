"""Flags of undeclared behaviour of a model during scoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iqarena.bench.inference.isolation import streams_kept
from iqarena.bench.inference.model_checks import REPEATED
from iqarena.bench.inference.target import frozen
from iqarena.models.base import QualityModel


class _GradientsOn(TorchDispatchMode):
    """Detects operations that are computed while gradients are enabled."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen = self.seen or torch.is_grad_enabled()
        return func(*args, **(kwargs or {}))


def optimises(model: QualityModel, images: torch.Tensor) -> bool:
    """Check whether scoring images (N, 3, H, W) in [0, 1] enables gradients, although they are disabled outside.

    False if that cannot be determined, since a compiled model may not support the dispatch mode.
    """
    detector = _GradientsOn()
    try:
        with frozen(model), torch.no_grad(), streams_kept(), detector:
            model(images)
    except Exception:
        return False
    return detector.seen


def differ(scorings: Sequence[torch.Tensor]) -> bool:
    """Check whether several lists of qualities (N,) of the same images differ by more than rounding errors."""
    first = scorings[0]
    scale = first.abs().clamp(min=1)
    return any(bool(((other - first).abs() > REPEATED * scale).any()) for other in scorings[1:])
