"""What a model does while it scores that it should have said."""

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
    """Notices an operation that is computed while gradients are switched on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen = self.seen or torch.is_grad_enabled()
        return func(*args, **(kwargs or {}))


def optimises(model: QualityModel, images: torch.Tensor) -> bool:
    """Whether scoring images (N, 3, H, W) in [0, 1] switches gradients on, though they are off outside.

    False where nobody can tell, as a model that is compiled may refuse to be watched.
    """
    noticed = _GradientsOn()
    try:
        with frozen(model), torch.no_grad(), streams_kept(), noticed:
            model(images)
    except Exception:
        return False
    return noticed.seen


def differ(scorings: Sequence[torch.Tensor]) -> bool:
    """Whether several lists of qualities (N,) of the same images differ by more than rounding does."""
    first = scorings[0]
    scale = first.abs().clamp(min=1)
    return any(bool(((other - first).abs() > REPEATED * scale).any()) for other in scorings[1:])
