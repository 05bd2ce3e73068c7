"""The form in which a data set must return its images, and the conversion of others where that is certain."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from iqarena.bench.errors import UserError


class _Images(Protocol):
    """A data set, as far as its images are concerned."""

    name: str

    def image(self, index: int) -> torch.Tensor:
        """Return an image."""


def rgb_image(dataset: _Images, index: int) -> torch.Tensor:
    """Return an image of a data set, which may be someone's own class, as (3, H, W) uint8 on the CPU, not shared with it.

    Raises:
        UserError: if it cannot be read, or is of a form whose conversion is not certain, see `as_rgb`.
    """
    return as_rgb(dataset.image(index), f"data set {dataset.name!r}, image {index}")


def as_rgb(image: object, where: str) -> torch.Tensor:
    """Return a copy of an image as (3, H, W) uint8 on the CPU.

    Torch, NumPy and Pillow images are taken, channels first or last. Other numbers than uint8 are taken if they can only
    be 8-bit levels: whole numbers from 0 to 255, or these divided by 255, or 16-bit ones that are multiples of 257.

    Args:
        image: the image.
        where: beginning of the message of an error.

    Raises:
        UserError: for all others.
    """
    array = _array(image, where)
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]) or not array.size:
        raise UserError(f"{where}: has the shape {tuple(array.shape)}; it must be (3, height, width)")
    levels = _levels(array)
    if levels is None:
        extent = f" from {_shown(array.min())} to {_shown(array.max())}" if array.dtype.kind in "buif" else ""
        raise UserError(f"{where}: has {array.dtype} numbers{extent}; return (3, height, width) as uint8, from 0 to 255")
    first = levels if levels.shape[0] == 3 else levels.transpose(2, 0, 1)
    return torch.from_numpy(np.array(first, order="C", copy=True))


def _array(image: object, where: str) -> NDArray[Any]:
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise UserError(f"{where}: is a Pillow image of mode {image.mode}; convert it to RGB")
        return np.asarray(image)
    if isinstance(image, torch.Tensor):
        try:
            return image.detach().cpu().resolve_conj().resolve_neg().numpy()
        except (TypeError, RuntimeError):  # a type that NumPy lacks, a sparse or a quantised tensor
            raise UserError(f"{where}: is a tensor of {image.dtype}; return (3, height, width) as uint8") from None
    if isinstance(image, np.ndarray):
        return image
    raise UserError(f"{where}: is a {type(image).__name__}; return a tensor (3, height, width) of uint8")


def _levels(array: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return the 8-bit levels that the numbers stand for; None if that is not certain."""
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind not in "iuf" or array.dtype == np.int8 or not np.isfinite(array).all() or array.min() < 0:
        return None
    largest = array.max()
    if array.dtype == np.uint16:  # 16 bits have the whole range
        return (array // 257).astype(np.uint8) if not (array % 257).any() else None
    if kind != "f":
        return array.astype(np.uint8) if 1 < largest <= 255 else None
    if largest <= 1:  # only zeros and ones may be levels as well
        scaled = array.astype(np.float64) * 255
        certain = bool(((array > 0) & (array < 1)).any())
        # 255 times the rounding of a number in half precision
        near = 0.07 if array.dtype == np.float16 else 1e-3
    else:
        scaled, certain, near = array.astype(np.float64), bool(largest <= 255), 0.0
    rounded = scaled.round()
    return rounded.astype(np.uint8) if certain and (abs(scaled - rounded) <= near).all() else None


def _shown(number: Any) -> str:
    return str(number)[:20]
