"""Verification that a data set is complete and readable: every file is read, nothing is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from iqarena.bench.datasets import dataset_class, open_dataset
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.decoding import decoders, each
from iqarena.bench.datasets.pixels import rgb_image
from iqarena.bench.datasets.published.base import Problem, PublishedSet
from iqarena.bench.datasets.tid2013_reconstructed.dataset import Originals, TID2013Reconstructed
from iqarena.bench.datasets.unlabelled import SUFFIXES
from iqarena.bench.errors import UserError

Size = tuple[int, int]
"""(width, height)."""


def verify(
    spec: str, root: Path | None, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[int, list[Problem]]:
    """Check the labels and every image of a data set.

    Args:
        spec: registry name of the data set.
        root: its folder.
        progress: called after each image with the number of images done and their total.

    Returns:
        The number of images of the data set, and its problems: labels, extra files, images in their order, sizes.

    Raises:
        UserError: if the root does not contain the data set at all.
    """
    cls = dataset_class(spec)
    if not (issubclass(cls, PublishedSet) and root is not None):
        dataset = open_dataset(spec, root)
        on_disk = Originals(dataset) if isinstance(dataset, TID2013Reconstructed) else dataset
        return len(dataset), _check_images(on_disk, progress)[1]
    published = cls.indexed(root)
    sizes, problems = _check_images(published, progress)
    all_problems = published.label_problems + _extra(published) + problems + _odd_sizes(published, sizes)
    return len(published), all_problems


def _check_images(dataset: ImageDataset, progress: Callable[[int, int], None]) -> tuple[list[Size | None], list[Problem]]:
    """Decode every image; return the size of each, None where it cannot be decoded, and the problems of those."""
    sizes, problems = [], []
    for index, (size, message) in enumerate(each(_SizeOrError(dataset), len(dataset), decoders(len(dataset)))):
        sizes.append(size)
        if size is None:
            problems.append(_problem(dataset, index, message))
        progress(index + 1, len(dataset))
    return sizes, problems


class _SizeOrError:
    """Decodes one image of a data set and returns its size, or the error message."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> tuple[Size | None, str]:
        try:
            image = rgb_image(self.dataset, index)
        except UserError as error:
            return None, str(error)
        return (image.shape[2], image.shape[1]), ""


def _problem(dataset: ImageDataset, index: int, message: str) -> Problem:
    """Classify the error of an image that could not be read."""
    image_id = dataset.samples[index].image_id
    path, _, reason = message.partition(": ")
    try:
        size = Path(path).stat().st_size
    except OSError:
        return Problem("missing", image_id, reason)
    if size == 0:
        return Problem("truncated", image_id, "0 bytes")
    if "not the image" in reason:
        return Problem("changed", image_id, reason)
    # Pillow's messages for a file that ends too early, by format
    early = ("truncated", "Truncated", "broken PNG", "unexpected end", "ends before its last line")
    return Problem("truncated" if any(text in reason for text in early) else "unreadable", image_id, reason)


def _extra(dataset: PublishedSet) -> list[Problem]:
    """Return images in the image folders that are neither labelled nor part of the official release."""
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
    """Return images that do not have the stated size or, if none is stated, the size of most versions of their reference."""
    stated = dataset.expected_size()
    of_reference: dict[str, Counter[Size]] = defaultdict(Counter)
    for sample, size in zip(dataset.samples, sizes, strict=True):
        if size:
            of_reference[sample.reference_id][size] += 1
    problems = []
    for sample, size in zip(dataset.samples, sizes, strict=True):
        if size is None:
            continue
        expected = stated or of_reference[sample.reference_id].most_common(1)[0][0]
        if size != expected:
            about = "{}×{}, not {}×{}".format(*size, *expected)
            problems.append(Problem("wrong-size", sample.image_id, about))
    return problems
