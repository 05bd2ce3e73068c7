"""Files that are whole or not there: synced writes, folders that are replaced at once, images as PNG."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from iqarena.bench.errors import UserError

Pixels = NDArray[np.uint8]
"""(H, W, 3)."""


def as_array(image: torch.Tensor) -> Pixels:
    """An image (3, H, W) uint8 as (H, W, 3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _png(place: int) -> str:
    return f"{place:05d}.png"


def _write_png(path: Path, image: Pixels) -> None:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "png", compress_level=1)  # three times as fast, a tenth larger
    _write_synced(path, encoded.getvalue())


def _stored(path: Path, sha256: str) -> Pixels:
    """A kept image.

    Raises:
        UserError: where it is missing or has other pixels than when it was stored.
    """
    try:
        with Image.open(path) as opened:
            pixels = np.array(opened)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's word for a broken chunk is SyntaxError
        raise UserError(f"{path}: cannot be read ({error}); run its cell again with --fresh --keep-images") from None
    if _sha256(pixels) != sha256:
        raise UserError(f"{path}: not the pixels of its record; run its cell again with --fresh --keep-images")
    return pixels


def _sha256(image: Pixels) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes a folder's place when all went well; else, what was there before is there again."""
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        _sync(part)
        replaced = folder.exists()
        if replaced:
            folder.rename(old)
        part.rename(folder)
        if replaced:
            _sync(folder.parent)  # before the old one goes; else, a power cut may cost the last cells, but never half of one
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        _put_back(old, folder)


def _put_back(old: Path, folder: Path) -> None:
    """What was set aside for a folder's new content comes back where that has not come, and else goes."""
    if not folder.exists():
        with suppress(OSError):  # where it cannot, it stays for the next sweep
            old.rename(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Names are on the disk, not only in memory."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
