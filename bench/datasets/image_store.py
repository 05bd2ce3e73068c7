"""The images of a run, before and after an attack, in bounded memory."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.decoding import decoders, each
from iqarena.bench.errors import UserError

MEMORY = 2**28
"""Bytes of clean images, and of the attacked images of one crafting, that are kept in memory."""


class CleanImages(Sequence[torch.Tensor]):
    """Clean images (3, H, W) uint8, decoded when they are asked for; those asked for last stay.

    All of them are looked at once at the beginning, by worker processes if they are many.

    Attributes:
        sizes: (H, W) of each.
        hashes: sha256 of each one's pixels.
    """

    def __init__(self, dataset: ImageDataset, indices: Sequence[int], memory: int = MEMORY) -> None:
        self._dataset, self._indices, self._memory = dataset, list(indices), memory
        self._held: OrderedDict[int, torch.Tensor] = OrderedDict()
        self._bytes = 0
        self.sizes: list[tuple[int, int]] = []
        self.hashes: list[str] = []
        workers = decoders(len(self))
        get = partial(_decoded, dataset, self._indices) if workers else self.__getitem__
        for found in each(partial(_look, get), len(self), workers):
            if isinstance(found, str):
                raise UserError(found)
            self.sizes.append(found[0])
            self.hashes.append(found[1])

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> torch.Tensor:  # type: ignore[override]  # no slices
        if not 0 <= place < len(self):
            raise IndexError(place)
        if place not in self._held:
            self._held[place] = self._dataset.image(self._indices[place])
            self._bytes += self._held[place].numel()
            while self._bytes > self._memory and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].numel()
        self._held.move_to_end(place)
        return self._held[place]


def _decoded(dataset: ImageDataset, indices: Sequence[int], place: int) -> torch.Tensor:
    return dataset.image(indices[place])


def _look(get: Callable[[int], torch.Tensor], place: int) -> tuple[tuple[int, int], str] | str:
    """(H, W) of an image and the sha256 of its pixels, or the line that says what is wrong with it."""
    try:
        image = get(place)
    except UserError as error:
        return str(error)
    return (image.shape[1], image.shape[2]), hashlib.sha256(image.numpy().tobytes()).hexdigest()


class AttackedImages(Sequence[torch.Tensor]):
    """Attacked images (3, H, W) uint8 by place; what does not fit into memory lies in a temporary folder."""

    def __init__(self, count: int, memory: int = MEMORY) -> None:
        self._count, self._left = count, memory
        self._held: dict[int, torch.Tensor] = {}
        self._folder: Path | None = None

    def __len__(self) -> int:
        return self._count

    def _file(self, place: int) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="iqarena-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / f"{place}.npy"

    def put(self, place: int, image: torch.Tensor) -> None:
        """Keep an image; each place is filled once."""
        if image.numel() <= self._left:
            self._left -= image.numel()
            self._held[place] = image.clone()  # a view would keep its whole batch alive
        else:
            np.save(self._file(place), image.numpy())

    def __getitem__(self, place: int) -> torch.Tensor:  # type: ignore[override]  # no slices
        if not 0 <= place < self._count:
            raise IndexError(place)
        return self._held[place] if place in self._held else torch.from_numpy(np.load(self._file(place)))

    @property
    def bytes(self) -> int:
        """What it holds in memory."""
        return sum(image.numel() for image in self._held.values())
