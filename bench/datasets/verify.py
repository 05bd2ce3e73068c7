"""Is a data set whole? Every file of it is looked at; nothing is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from iqarena.bench.datasets import dataset_class, open_dataset
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.decoding import decoders, each
from iqarena.bench.datasets.published.base import Problem, PublishedSet
from iqarena.bench.datasets.tid2013_reconstructed.dataset import Originals, TID2013Reconstructed
from iqarena.bench.datasets.unlabelled import SUFFIXES
from iqarena.bench.errors import UserError

Size = tuple[int, int]
"""(width, height)."""


def verify(
    spec: str, root: Path | None, seen: Callable[[int, int], None] = lambda done, total: None
) -> tuple[int, list[Problem]]:
    """Look at labels and at every image.

    Args:
        spec: registry name of the data set.
        root: its folder.
        seen: told how many images of how many are done.

    Returns:
        How many images the data set has, and what is wrong: labels, extra files, images in their order, sizes.

    Raises:
        UserError: where the root is no such data set at all.
    """
    made = dataset_class(spec)
    if not (issubclass(made, PublishedSet) and root is not None):
        dataset = open_dataset(spec, root)
        on_disk = Originals(dataset) if isinstance(dataset, TID2013Reconstructed) else dataset
        return len(dataset), _images(on_disk, seen)[1]
    published = made.indexed(root)
    sizes, problems = _images(published, seen)
    everything = published.label_problems + _extra(published) + problems + _odd_sizes(published, sizes)
    return len(published), everything


def _images(dataset: ImageDataset, seen: Callable[[int, int], None]) -> tuple[list[Size | None], list[Problem]]:
    """The size of every image that can be decoded, and what is wrong with the others."""
    sizes, problems = [], []
    for index, (size, wrong) in enumerate(each(_Look(dataset), len(dataset), decoders(len(dataset)))):
        sizes.append(size)
        if size is None:
            problems.append(_told(dataset, index, wrong))
        seen(index + 1, len(dataset))
    return sizes, problems


class _Look:
    """Decodes one image of a data set: its size, or what is wrong with it."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> tuple[Size | None, str]:
        try:
            image = self.dataset.image(index)
        except UserError as error:
            return None, str(error)
        return (image.shape[2], image.shape[1]), ""


def _told(dataset: ImageDataset, index: int, wrong: str) -> Problem:
    """Which kind of wrong it is that an image was refused for."""
    image_id = dataset.samples[index].image_id
    path, _, reason = wrong.partition(": ")
    try:
        size = Path(path).stat().st_size
    except OSError:
        return Problem("missing", image_id, reason)
    if size == 0:
        return Problem("truncated", image_id, "0 bytes")
    if "not the image" in reason:
        return Problem("changed", image_id, reason)
    # Pillow's words for a file that ends too early, by format
    early = ("truncated", "Truncated", "broken PNG", "unexpected end")
    return Problem("truncated" if any(words in reason for words in early) else "unreadable", image_id, reason)


def _extra(dataset: PublishedSet) -> list[Problem]:
    """Images where the labelled ones lie that are neither labelled nor official."""
    labelled = {path for path in dataset.paths if path is not None}
    return [
        Problem("extra", path, "has no label and is not of the official release")
        for low, path in sorted(dataset.tree.files.items())
        if low.endswith(SUFFIXES)
        and path not in labelled
        and low.startswith(tuple(dataset.image_folders))
        and not dataset.belongs(low)
    ]


def _odd_sizes(dataset: PublishedSet, sizes: list[Size | None]) -> list[Problem]:
    """Images that are not of the stated size or, where none is stated, not of that of most versions of their reference."""
    stated = dataset.expected_side()
    of_reference: dict[str, Counter[Size]] = defaultdict(Counter)
    for sample, size in zip(dataset.samples, sizes, strict=True):
        if size:
            of_reference[sample.reference_id][size] += 1
    problems = []
    for sample, size in zip(dataset.samples, sizes, strict=True):
        if size is None:
            continue
        wanted = stated or of_reference[sample.reference_id].most_common(1)[0][0]
        if size != wanted:
            words = "{}×{}, not {}×{}".format(*size, *wanted)
            problems.append(Problem("wrong-size", sample.image_id, words))
    return problems
