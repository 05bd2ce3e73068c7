"""Clean and attacked images of a run, in bounded memory."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.decoding import decoders, each
from iqarena.bench.datasets.pixels import rgb_image
from iqarena.bench.datasets.tree import check_ids
from iqarena.bench.errors import UserError

MEMORY = 2**28
"""Bytes of clean images, and of one set of attacked images, that are kept in memory."""


class CleanImages(Sequence[torch.Tensor]):
    """Clean images (3, H, W) uint8, decoded on demand; the most recently used stay in memory.

    Every image is decoded once at the beginning for its size and hash, by worker processes if there are many images.
    Images of a data set of someone's own are converted to (3, H, W) uint8 where that is certain, else refused.

    Attributes:
        sizes: (H, W) of each image.
        hashes: sha256 of the pixels of each image.
    """

    def __init__(self, dataset: ImageDataset, indices: Sequence[int], memory: int = MEMORY) -> None:
        self._dataset, self._indices, self._memory = dataset, list(indices), memory
        check_ids([dataset.samples[index].image_id for index in self._indices])
        self._in_memory: OrderedDict[int, torch.Tensor] = OrderedDict()
        self._sums: dict[int, int] = {}
        self._bytes = 0
        self.sizes: list[tuple[int, int]] = []
        self.hashes: list[str] = []
        workers = decoders(len(self))
        get = partial(_decoded, dataset, self._indices) if workers else self.__getitem__
        for result in each(partial(_size_and_hash, get), len(self), workers):
            if isinstance(result, str):
                raise UserError(result)
            self.sizes.append(result[0])
            self.hashes.append(result[1])

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]  # no slices
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index not in self._in_memory:
            self._in_memory[index] = rgb_image(self._dataset, self._indices[index])
            self._sums[index] = _checksum(self._in_memory[index])
            self._bytes += self._in_memory[index].numel()
            while self._bytes > self._memory and len(self._in_memory) > 1:
                self._bytes -= self._in_memory.popitem(last=False)[1].numel()
        self._in_memory.move_to_end(index)
        return self._in_memory[index]

    def drop_changed(self) -> bool:
        """Check whether an image in memory was changed since it was decoded; if so drop them all, to decode them anew."""
        changed = any(_checksum(image) != self._sums[index] for index, image in self._in_memory.items())
        if changed:
            self._in_memory.clear()
            self._bytes = 0
        return changed


def _checksum(image: torch.Tensor) -> int:
    """Return the CRC-32 of an image's pixels; it takes a tenth of a millisecond."""
    return zlib.crc32(image.contiguous().numpy().data)


def _decoded(dataset: ImageDataset, indices: Sequence[int], index: int) -> torch.Tensor:
    return rgb_image(dataset, indices[index])


def _size_and_hash(get: Callable[[int], torch.Tensor], index: int) -> tuple[tuple[int, int], str] | str:
    """Return (H, W) of an image and the sha256 of its pixels, or the error message if it cannot be read."""
    try:
        image = get(index)
    except UserError as error:
        return str(error)
    return (image.shape[1], image.shape[2]), hashlib.sha256(image.numpy().tobytes()).hexdigest()


class AttackedImages(Sequence[torch.Tensor]):
    """Attacked images (3, H, W) uint8 by index; images that do not fit into memory are kept in a temporary folder."""

    def __init__(self, count: int, memory: int = MEMORY) -> None:
        self._count, self._free = count, memory
        self._in_memory: dict[int, torch.Tensor] = {}
        self._sums: dict[int, int] = {}
        self._folder: Path | None = None

    def __len__(self) -> int:
        return self._count

    def _file(self, index: int) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="iqarena-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / f"{index}.npy"

    def put(self, index: int, image: torch.Tensor) -> None:
        """Store an image; each index is set once."""
        if image.numel() <= self._free:
            self._free -= image.numel()
            self._in_memory[index] = image.clone()  # a view would keep its whole batch alive
            self._sums[index] = _checksum(image)
        else:
            np.save(self._file(index), image.numpy())

    def __getitem__(self, index: int) -> torch.Tensor:  # type: ignore[override]  # no slices
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._in_memory[index] if index in self._in_memory else torch.from_numpy(np.load(self._file(index)))

    def intact(self) -> bool:
        """Check that no image in memory was changed since it was stored."""
        return all(_checksum(image) == self._sums[index] for index, image in self._in_memory.items())

    @property
    def bytes(self) -> int:
        """Bytes of the images that are in memory."""
        return sum(image.numel() for image in self._in_memory.values())
