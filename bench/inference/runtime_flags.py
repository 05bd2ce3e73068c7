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

BATCH_TOLERANCE = 1e-3
"""Quality units: other layouts and kernels that a batch brings change less."""


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


def depends_on_batch(model: QualityModel, image: torch.Tensor) -> bool:
    """Check whether the quality of an image (1, 3, H, W) in [0, 1] changes with the others in its batch.

    It does where a model normalises by statistics or the maximum of the batch. The others are its negative, a flat image and
    noise, which change both. False if the model cannot score them: its faults show where they are recorded.
    """
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    batch = torch.cat([image, 1 - image, torch.full_like(image, 0.5), noise])
    try:
        with frozen(model), torch.inference_mode(), streams_kept():
            together, again = (model.quality(batch.clone()) for _ in range(2))
            alone = torch.cat([model.quality(batch[i : i + 1].clone()) for i in range(len(batch))])
    except Exception:
        return False
    random, dependent = (bool(((together - other).abs() > BATCH_TOLERANCE).any()) for other in (again, alone))
    return dependent and not random  # randomness that was not declared has a flag of its own
