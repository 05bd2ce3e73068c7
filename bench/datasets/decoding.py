"""Parallel decoding: worker processes apply a function to every image, so a large data set is never in memory as a whole.

Training has its own loader, `iqarena.defenses.training.loop.batches`, which also crops, flips and batches.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

FEW = 200
"""Number of images up to which decoding takes less time than starting worker processes."""


class _Each(Dataset[T], Generic[T]):
    def __init__(self, function: Callable[[int], T], count: int) -> None:
        self.function, self.count = function, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> T:
        return self.function(index)


def decoders(images: int) -> int:
    """Return the number of worker processes for decoding: torch's number of threads, or 0 where workers do not pay off.

    That is for one thread, for at most `FEW` images, and in a daemonic process, which cannot have children.
    """
    threads = torch.get_num_threads()
    return threads if threads > 1 and images > FEW and not multiprocessing.current_process().daemon else 0


def each(function: Callable[[int], T], count: int, workers: int) -> Iterator[T]:
    """Yield ``function(0)``, ``function(1)``, … in order, computed by worker processes, or in this process with 0 workers.

    The function is sent to every worker once. Its results are sent back, so they should be small. An exception in it ends
    the whole iteration, so errors that a user can fix should be returned instead of raised.
    """
    yield from DataLoader(
        _Each(function, count),
        batch_size=1,
        num_workers=workers,
        collate_fn=_first,
        generator=torch.Generator(),  # otherwise the loader draws from the caller's random stream
    )


def _first(items: list[T]) -> T:
    return items[0]
