"""Images looked at by worker processes, so that a large set is decoded by all cores and never held as a whole.

Training has a loader of its own, `iqarena.defenses.training.loop.batches`, which crops, flips and batches too.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

FEW = 200
"""Images that are decoded before worker processes would have started."""


class _Each(Dataset[T], Generic[T]):
    def __init__(self, look: Callable[[int], T], count: int) -> None:
        self.look, self.count = look, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> T:
        return self.look(index)


def decoders(images: int) -> int:
    """Processes for so many images: as many as torch has threads, but none instead of one, none for a few, and none in a
    process that may not have children.
    """
    threads = torch.get_num_threads()
    return threads if threads > 1 and images > FEW and not multiprocessing.current_process().daemon else 0


def each(look: Callable[[int], T], count: int, workers: int) -> Iterator[T]:
    """``look(0)``, ``look(1)``, … in order, worked out by worker processes; 0 of them look here.

    `look` goes to every worker once. What it returns comes back, so that should be small; and an exception in it ends
    everything, so what a user can mend is returned instead.
    """
    yield from DataLoader(
        _Each(look, count),
        batch_size=1,
        num_workers=workers,
        collate_fn=_first,
        generator=torch.Generator(),  # else the loader draws from the caller's stream
    )


def _first(items: list[T]) -> T:
    return items[0]
