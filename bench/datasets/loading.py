"""Pictures decoded, changed and batched by worker processes, so that decoding keeps up with whatever uses the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from bench.datasets.base import ImageDataset
from bench.errors import UserError

T = TypeVar("T")
Change = Callable[[torch.Tensor, int], torch.Tensor]
"""``change(picture (3, H, W) uint8, index)`` → a tensor of the batch's shape; a crop, a flip."""


@dataclass(frozen=True)
class Batch:
    """Pictures (N, 3, H, W) uint8 and their indices in the data set."""

    pictures: torch.Tensor
    indices: list[int]


def batches(
    dataset: ImageDataset, indices: Sequence[int], workers: int, batch: int, change: Change | None = None
) -> Iterator[Batch]:
    """Batches in the order of `indices`, the last one maybe smaller; a few are ready ahead, never the whole set.

    Args:
        dataset: where pictures come from; it goes to every worker once.
        indices: which, in which order.
        workers: processes that decode; 0 decodes here.
        batch: pictures in each.
        change: applied to every picture in the worker; anything random in it must depend on the index alone, or
            the number of workers would change it.

    Raises:
        UserError: for a picture that cannot be read, or one whose shape is not that of its batch's first.
    """
    made = _Pictures(dataset, indices, change)
    loader: DataLoader[object] = DataLoader(
        made, batch_size=batch, num_workers=workers, collate_fn=_batched, prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else the loader draws from the caller's stream
    )  # fmt: skip
    for loaded in loader:
        if isinstance(loaded, str):
            raise UserError(loaded)
        assert isinstance(loaded, Batch)
        yield loaded


class _Pictures(Dataset[tuple[int, torch.Tensor] | str]):
    """A picture with its index, or what is wrong with it: an exception would come with another process's traceback."""

    def __init__(self, dataset: ImageDataset, indices: Sequence[int], change: Change | None) -> None:
        self.dataset, self.indices, self.change = dataset, list(indices), change

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[int, torch.Tensor] | str:
        index = self.indices[place]
        try:
            picture = self.dataset.picture(index)
        except UserError as error:
            return str(error)
        return index, self.change(picture, index) if self.change else picture


def _batched(items: list[tuple[int, torch.Tensor] | str]) -> Batch | str:
    indices, pictures = [], []
    for item in items:
        if isinstance(item, str):
            return item
        indices.append(item[0])
        pictures.append(item[1])
    for index, picture in zip(indices, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = " and ".join("×".join(map(str, p.shape[1:])) for p in (pictures[0], picture))
            return f"pictures {indices[0]} and {index} are of different size ({sizes}) and cannot be in one batch; crop them"
    return Batch(default_collate(pictures), indices)  # in a worker, straight into shared memory


class _Each(Dataset[T], Generic[T]):
    def __init__(self, look: Callable[[int], T], count: int) -> None:
        self.look, self.count = look, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> T:
        return self.look(index)


def each(look: Callable[[int], T], count: int, workers: int) -> Iterator[T]:
    """``look(0)``, ``look(1)``, … in order, worked out by worker processes."""
    yield from DataLoader(
        _Each(look, count), batch_size=1, num_workers=workers, collate_fn=_first, generator=torch.Generator()
    )


def _first(items: list[T]) -> T:
    return items[0]
