"""The interface of data sets: images, each with a reference image and, in most data sets, a label."""

from __future__ import annotations

import hashlib
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image

from iqarena.bench.datasets.complete import ends_early
from iqarena.bench.datasets.pixels import as_rgb, rgb_image
from iqarena.bench.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        image_id: id of the image; the same on every machine, even if the case of the file name differs.
        reference_id: id of the reference image that it was made from.
        mos: label in [0, 1], 1 = best; NaN if there is none.
        raw: the label as published, in the data set's own range and direction; NaN if there is none.
    """

    image_id: str
    reference_id: str
    mos: float = math.nan
    raw: float = math.nan


Choose = Callable[[int, int], tuple[int, int, int, int]]
"""A crop function: ``choose(height, width)`` of an image returns (top, left, height, width) of the crop."""

SPLITS = ("training", "validation", "test")

SHARES = {"test": 0.2, "validation": 0.1}
"""Shares of the references in a seeded split; the rest is for training. KonIQ-10k's official split has the same shares."""


class ImageDataset(ABC):
    """A data set: images in a fixed order, decoded one at a time, on demand.

    Attributes:
        name: registry name.
        label_kind: "MOS", "pseudo-MOS" or "none"; shown next to every number that is computed from the labels.
        samples: all images.
        fingerprint: sha256 of everything that defines the images and the labels.
        official: the official split, "training", "validation" or "test" for each image; None if there is none.
        split_description: a short text on the split, "official" or "by reference".
        paper, licence: paper and licence of the data set.
        layout: the files below the root, one path per line.
        raw_range: (low, high) of the published labels, which are mapped to 0 and 1, or to 1 and 0.
        higher_is_better: direction of the published labels.
        count: number of labelled images in the complete data set.
        verbatim: whether `open_with` gets its parameters as they are written, since a column may be called 007 or true.
    """

    name: str
    label_kind: str
    samples: Sequence[Sample]
    fingerprint: str
    official: Sequence[str] | None = None
    split_description: str = "by reference"
    paper: str = ""
    licence: str = ""
    layout: str = ""
    raw_range: tuple[float, float] | None = None
    higher_is_better: bool = True
    count: int | None = None
    verbatim: bool = False

    @classmethod
    @abstractmethod
    def open(cls, root: Path | None) -> ImageDataset:
        """Open the data set below `root`, which may be None if it needs no files.

        Raises:
            UserError: if the data set is not there.
        """

    @classmethod
    def open_with(cls, root: Path | None, parameters: Mapping[str, Any]) -> ImageDataset:
        """Open the data set with the parameters given in brackets after its name.

        Raises:
            UserError: as `open`, and for a parameter that the data set does not have.
        """
        if parameters:
            raise UserError(f"the data set {cls.name!r} takes no parameters, not even {next(iter(parameters))!r}")
        return cls.open(root)

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """Return the properties that are known without the images, for lists and docs."""
        return {
            "about": (inspect.getdoc(cls) or "").split("\n")[0],
            "label_kind": getattr(cls, "label_kind", ""),
            "count": cls.count,
            "raw_range": cls.raw_range and list(cls.raw_range),
            "higher_is_better": cls.higher_is_better,
            "split": cls.split_description,
            "layout": inspect.cleandoc(cls.layout).splitlines(),
            "licence": cls.licence,
            "paper": cls.paper,
        }

    @abstractmethod
    def image(self, index: int) -> torch.Tensor:
        """Return an image as (3, H, W) uint8 RGB.

        Raises:
            UserError: if it cannot be read.
        """

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        """Return a crop of an image as (3, height, width) uint8 RGB; for files faster than decoding the whole image."""
        image = rgb_image(self, index)
        top, left, height, width = choose(image.shape[1], image.shape[2])
        return image[:, top : top + height, left : left + width]

    def __len__(self) -> int:
        return len(self.samples)

    def mos(self, index: int) -> float:
        """Return the label of an image in [0, 1], 1 = best; NaN if there is none."""
        return self.samples[index].mos

    def split(self, seed: int = 0) -> list[str]:
        """Return "training", "validation" or "test" for each image: the official split if there is one, else by reference.

        All versions of a reference are in the same part. References are sorted by a hash of the seed and their id, so the
        split does not depend on the order of the files or on the machine.
        """
        if self.official is not None:
            return list(self.official)
        references = {sample.reference_id for sample in self.samples}
        ordered = sorted(references, key=lambda ref: hashlib.sha256(f"{seed}/{ref}".encode()).digest())
        assigned: dict[str, str] = {}
        for name, share in SHARES.items():
            count = max(1, round(share * len(ordered))) if len(ordered) > len(SHARES) else 0
            assigned |= dict.fromkeys(ordered[len(assigned) : len(assigned) + count], name)
        return [assigned.get(sample.reference_id, "training") for sample in self.samples]

    def _label(self, raw: float) -> float:
        """Rescale a published label to [0, 1], 1 = best."""
        assert self.raw_range is not None
        low, high = self.raw_range
        scaled = (raw - low) / (high - low)
        return scaled if self.higher_is_better else 1 - scaled

    def spread(self, limit: int | None, references: Collection[str] | None = None) -> list[int]:
        """Choose at most `limit` images, evenly over the references, and return their indices.

        The versions of a reference are sorted by a hash of the image id, so the choice is the same on every machine, a
        prefix is an unbiased sample of the versions, and a longer list starts with the shorter one.

        Args:
            limit: maximum number of images; None for all.
            references: if given, only images of these references are chosen.
        """
        chosen = [i for i, sample in enumerate(self.samples) if references is None or sample.reference_id in references]
        if limit is None or limit >= len(chosen):
            return chosen
        queues: dict[str, list[int]] = {}
        for index in sorted(chosen, key=lambda i: hashlib.sha256(self.samples[i].image_id.encode()).digest()):
            queues.setdefault(self.samples[index].reference_id, []).append(index)
        rounds = max(len(queue) for queue in queues.values())
        ordered = [queues[ref][turn] for turn in range(rounds) for ref in sorted(queues) if turn < len(queues[ref])]
        return ordered[:limit]


class ImageFiles(ImageDataset):
    """A data set whose images are files on disk.

    Attributes:
        published: see `read_image`.
    """

    published = False

    @abstractmethod
    def file(self, index: int) -> Path:
        """Return the path of an image; if it is missing, the path where it should be."""

    def image(self, index: int) -> torch.Tensor:
        return read_image(self.file(index), self.published)

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        return read_image(self.file(index), self.published, choose)


class Subset:
    """A selection of the images of a data set, in a given order, with the methods that training needs."""

    def __init__(self, whole: ImageDataset, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> torch.Tensor:
        return rgb_image(self.whole, self.indices[index])

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        part = self.whole.part(self.indices[index], choose)
        return as_rgb(part, f"data set {self.whole.name!r}, image {self.indices[index]}")

    def mos(self, index: int) -> float:
        return self.whole.mos(self.indices[index])

    def thinned(self, most: int) -> Subset:
        """Return the subset itself, or at most `most` of its images, evenly spaced."""
        count = min(most, len(self))
        return Subset(self.whole, [self.indices[i * len(self) // count] for i in range(count)])


EXACT_IN_RGB = ("L", "P", "RGBA")
"""Pillow modes that 8-bit files of a published data set may have: grey, palette, fully opaque alpha."""


def read_image(path: Path, published: bool = False, choose: Choose | None = None) -> torch.Tensor:
    """Read an 8-bit RGB image file, or a crop of it, as (3, H, W) uint8.

    Args:
        path: path of the file.
        published: whether the file belongs to a published data set, whose files were shown to raters and are used as they
            are. Then grey, palette and opaque alpha are converted to RGB, which is lossless; EXIF orientation is ignored,
            as in all other readers of these data sets; and the first image of a camera's multi-picture JPEG is used.
        choose: crop function; the whole image if omitted.

    Raises:
        UserError: if the file is missing, unreadable, animated, a decompression bomb or not 8-bit RGB, or if its EXIF
            orientation asks for a rotation, since it is then ambiguous what is to be scored.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a file")  # a pipe would never end
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # below twice the limit Pillow only warns
            opened = Image.open(path)
        with opened:
            animated = getattr(opened, "n_frames", 1) > 1 and not (published and opened.format == "MPO")
            if animated:
                raise UserError(f"{path}: has {opened.n_frames} frames; give a still image")  # type: ignore[attr-defined]
            if _is_deep(opened):
                raise UserError(f"{path}: has 16 bits a channel; convert it to 8-bit RGB first")
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
            if orientation not in (0, 1) and not published:
                raise UserError(f"{path}: EXIF says to turn it (orientation {orientation}); store its pixels upright first")
            rgb = opened if opened.mode == "RGB" else _in_rgb(opened, path, published)
            rgb.load()
            if ends_early(path, opened):
                raise ValueError("it ends before its last line")
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # damaged tags of a TIFF file raise almost anything
        raise UserError(f"{path}: not a readable image ({' '.join(str(error).split())})") from None
    if choose is not None:
        top, left, height, width = choose(rgb.height, rgb.width)
        rgb = rgb.crop((left, top, left + width, top + height))
    # line by line, one channel at a time: takes a third of the time of transposing (H, W, 3)
    lines = np.frombuffer(rgb.tobytes("raw", "RGB;L"), np.uint8).reshape(rgb.height, 3, rgb.width)
    return torch.from_numpy(lines.transpose(1, 0, 2).copy())


def _is_deep(opened: Image.Image) -> bool:
    """Check whether an image has 16 bits per channel, which only the decoder's arguments show, and only before loading."""
    stored = [tile[3] for tile in getattr(opened, "tile", [])]
    return any(
        ";16" in str(raw) or (isinstance(raw, tuple) and opened.format == "PPM" and int(raw[-1]) > 255) for raw in stored
    )


def _in_rgb(opened: Image.Image, path: Path, published: bool) -> Image.Image:
    if not published or opened.mode not in EXACT_IN_RGB:
        raise UserError(f"{path}: mode {opened.mode} is not 8-bit RGB; convert it first")
    has_alpha = opened.mode == "RGBA" or "transparency" in opened.info
    least_alpha = opened.convert("RGBA").getchannel("A").getextrema()[0] if has_alpha else 255
    if least_alpha != 255:
        raise UserError(f"{path}: is partly transparent; put it on a background first")
    return opened.convert("RGB")
