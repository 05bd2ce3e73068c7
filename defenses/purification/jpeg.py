"""`jpeg`: JPEG compression of the image before it is scored (Dziugaite, Ghahramani, Roy, arXiv 1608.00853).

The deployed filter is Pillow's codec. Its surrogate is a differentiable JPEG (after Shin and Song, 2017): the same colour
transform, 4:2:0 chroma, 8×8 DCT and quantisation tables, with the rounding x → ⌊x⌉ + (x − ⌊x⌉)³, whose gradient is not zero.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from iqarena.defenses.purification.base import Purification, Purifier, clipped

_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
"""The quantisation tables of ITU T.81, Annex K, which libjpeg scales by quality."""

_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_FROM_YCC = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@lru_cache
def _dct() -> torch.Tensor:
    """Return the orthonormal 8×8 DCT-II as one matrix (64, 64) on flattened blocks."""
    with torch.inference_mode(False):  # the result is cached, and a later call may differentiate through it
        return _dct_matrix()


def _dct_matrix() -> torch.Tensor:
    rows = [[math.cos(math.pi * (2 * x + 1) * u / 16) for x in range(8)] for u in range(8)]
    scale = [math.sqrt(1 / 8)] + [0.5] * 7
    matrix = torch.tensor([[s * value for value in row] for s, row in zip(scale, rows, strict=True)])
    return torch.kron(matrix, matrix)


def quantization_table(quality: int, chroma: bool) -> torch.Tensor:
    """Return libjpeg's quantisation table (8, 8) for a quality from 1 to 100."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = torch.tensor(_CHROMA_TABLE if chroma else _LUMA_TABLE, dtype=torch.float32)
    return ((table * scale + 50) / 100).floor().clamp(1, 255)


def soft_round(values: torch.Tensor) -> torch.Tensor:
    """Round to approximately the nearest integer, with a gradient of 3(x − ⌊x⌉)²."""
    nearest = values.detach().round()
    return nearest + (values - nearest) ** 3


def _quantize_plane(plane: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Apply DCT, quantisation and the inverse DCT to a plane (N, H, W) whose sides are multiples of 8."""
    count, height, width = plane.shape
    dct = _dct().to(plane)
    blocks = plane.view(count, height // 8, 8, width // 8, 8).transpose(2, 3).reshape(-1, 64)
    flat_table = table.flatten()
    kept = soft_round(blocks @ dct.T / flat_table) * flat_table @ dct
    return kept.view(count, height // 8, width // 8, 8, 8).transpose(2, 3).reshape(count, height, width)


def differentiable_jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    """Approximate JPEG encoding and decoding differentiably; (N, 3, H, W) in [0, 1] to the same."""
    height, width = images.shape[2:]
    padded = functional.pad(images * 255, (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = torch.einsum("dc,nchw->ndhw", images.new_tensor(_TO_YCC), padded)
    luma = _quantize_plane(ycc[:, 0] - 128, quantization_table(quality, chroma=False).to(images)) + 128
    table = quantization_table(quality, chroma=True).to(images)
    small = functional.avg_pool2d(ycc[:, 1:], 2)
    coded = _quantize_plane(small.flatten(0, 1), table).view_as(small)
    chroma = functional.interpolate(coded, scale_factor=2, mode="bilinear", align_corners=False)
    decoded = torch.einsum("dc,nchw->ndhw", images.new_tensor(_FROM_YCC), torch.cat([luma[:, None], chroma], dim=1))
    return clipped(decoded[:, :, :height, :width] / 255)


def real_jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    """Encode and decode by Pillow after rounding to 8 bit; (N, 3, H, W) in [0, 1] to the same, without a gradient."""
    decoded = []
    for image in (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        decoded.append(np.array(Image.open(file)))
    return (torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 255).to(images)


@dataclass(frozen=True)
class JPEG(Purification):
    """JPEG compression at a fixed quality.

    Attributes:
        quality: libjpeg quality, 1 to 100.
    """

    name: ClassVar[str] = "jpeg"
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "smooth"
    paper: ClassVar[str] = "https://arxiv.org/abs/1608.00853"

    quality: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"jpeg: quality {self.quality} is outside 1 … 100")

    def purifier(self) -> Purifier:
        return lambda images: real_jpeg(images, self.quality)

    def stand_in(self) -> Purifier:
        return lambda images: differentiable_jpeg(images, self.quality)
