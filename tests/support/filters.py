"""Run the deployed filter of a purification defense, and convert images."""

from __future__ import annotations

import numpy as np
import torch

from iqarena.bench.registry import DEFENSES
from iqarena.defenses.purification.base import PurifiedModel
from tests.support.analytic_models import MeanModel


def as_batch(image: np.ndarray) -> torch.Tensor:
    """Return an image (H, W, 3) uint8 as a batch (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255


def as_array(images: torch.Tensor) -> np.ndarray:
    """Return the first image of a batch (N, 3, H, W) as (H, W, 3)."""
    return images[0].permute(1, 2, 0).numpy()


def purified(spec: str, images: torch.Tensor) -> torch.Tensor:
    """Apply the deployed filter of a defense to images."""
    model = DEFENSES.build(spec).protect(MeanModel())
    assert isinstance(model, PurifiedModel)
    with torch.inference_mode():
        return model.purify(images).clone()
