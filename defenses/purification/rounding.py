"""Quantisation of pixels to fewer levels."""

from __future__ import annotations

import torch


def quantized(images: torch.Tensor, levels: int) -> torch.Tensor:
    """Round each value to the nearest of `levels` equally spaced values from 0 to 1, without a gradient."""
    return (images.detach() * (levels - 1)).round() / (levels - 1)
