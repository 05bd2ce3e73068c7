"""What a data set is here: images with a reference image each and, mostly, a label."""

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
from PIL import ExifTags, Image, UnidentifiedImageError

from iqarena.bench.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        image_id: the same on every machine, whatever the case of the file's name there.
        reference_id: of the image it derives from.
        mos: its label in [0, 1], 1 = best; NaN if none.
        raw: the label as the data set publishes it, in its own range and direction; NaN if none.
    """

    image_id: str
    reference_id: str
    mos: float = math.nan
    raw: float = math.nan


Choose = Callable[[int, int], tuple[int, int, int, int]]
"""``choose(height, width)`` of an image → (top, left, height, width) of the part of it that is wanted."""

SPLITS = ("training", "validation", "test")

SHARES = {"test": 0.2, "validation": 0.1}
"""Of the references, in a seeded split; the rest is training. KonIQ-10k's own split has these shares."""


class ImageDataset(ABC):
    """Images in a fixed order; decoded one at a time, on demand.

    Attributes:
        name: registry name.
        label_kind: "MOS", "pseudo-MOS" or "none"; shown wherever a number made from the labels is shown.
        samples: all images.
        fingerprint: sha256 over what defines images and labels.
        official: the data set's own split, "training", "validation" or "test" for each image; None where it has none.
        split_told: in words, whether it has one.
        paper, licence: of the data set.
        layout: what lies below the root, one path a line.
        raw_range: (low, high) of the published labels, which become 0 and 1, or 1 and 0.
        higher_is_better: direction of the published labels.
        count: how many labelled images the whole set has.
    """

    name: str
    label_kind: str
    samples: Sequence[Sample]
    fingerprint: str
    official: Sequence[str] | None = None
    split_told: str = "by reference"
    paper: str = ""
    licence: str = ""
    layout: str = ""
    raw_range: tuple[float, float] | None = None
    higher_is_better: bool = True
    count: int | None = None

    @classmethod
    @abstractmethod
    def open(cls, root: Path | None) -> ImageDataset:
        """The data set, found below `root` where it needs one.

        Raises:
            UserError: where it is not there.
        """

    @classmethod
    def open_with(cls, root: Path | None, parameters: Mapping[str, Any]) -> ImageDataset:
        """As `open`, with what stands in brackets behind the name.

        Raises:
            UserError: also for a parameter that the data set does not have.
        """
        if parameters:
            raise UserError(f"the data set {cls.name!r} takes no parameters, not even {next(iter(parameters))!r}")
        return cls.open(root)

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """What can be said without the images, for lists and docs."""
        return {
            "about": (inspect.getdoc(cls) or "").split("\n")[0],
            "label_kind": getattr(cls, "label_kind", ""),
            "count": cls.count,
            "raw_range": cls.raw_range and list(cls.raw_range),
            "higher_is_better": cls.higher_is_better,
            "split": cls.split_told,
            "layout": inspect.cleandoc(cls.layout).splitlines(),
            "licence": cls.licence,
            "paper": cls.paper,
        }

    @abstractmethod
    def image(self, index: int) -> torch.Tensor:
        """The image as (3, H, W) uint8 RGB.

        Raises:
            UserError: where it cannot be read.
        """

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        """A part of the image as (3, height, width) uint8 RGB; quicker than the whole one where that is a file."""
        image = self.image(index)
        top, left, height, width = choose(image.shape[1], image.shape[2])
        return image[:, top : top + height, left : left + width]

    def __len__(self) -> int:
        return len(self.samples)

    def mos(self, index: int) -> float:
        """Label in [0, 1], 1 = best; NaN where there is none."""
        return self.samples[index].mos

    def split(self, seed: int = 0) -> list[str]:
        """ "training", "validation" or "test" for each image: the official split, else one by reference.

        All versions of a reference go together. References are taken in the order of a hash of the seed and their id, so
        the split does not depend on the order of files or on the machine.
        """
        if self.official is not None:
            return list(self.official)
        references = {sample.reference_id for sample in self.samples}
        ordered = sorted(references, key=lambda ref: hashlib.sha256(f"{seed}/{ref}".encode()).digest())
        part: dict[str, str] = {}
        for name, share in SHARES.items():
            count = max(1, round(share * len(ordered))) if len(ordered) > len(SHARES) else 0
            part |= dict.fromkeys(ordered[len(part) : len(part) + count], name)
        return [part.get(sample.reference_id, "training") for sample in self.samples]

    def _label(self, raw: float) -> float:
        """A published label in [0, 1], 1 = best."""
        assert self.raw_range is not None
        low, high = self.raw_range
        part = (raw - low) / (high - low)
        return part if self.higher_is_better else 1 - part

    def spread(self, limit: int | None, references: Collection[str] | None = None) -> list[int]:
        """Indices of at most `limit` images (of some references), evenly over the references, the same on every machine.

        Within a reference the order is that of a hash of the image id, so a prefix is a fair draw of its versions, and
        a longer list begins with the shorter one.
        """
        chosen = [i for i, sample in enumerate(self.samples) if references is None or sample.reference_id in references]
        if limit is None or limit >= len(chosen):
            return chosen
        queues: dict[str, list[int]] = {}
        for index in sorted(chosen, key=lambda i: hashlib.sha256(self.samples[i].image_id.encode()).digest()):
            queues.setdefault(self.samples[index].reference_id, []).append(index)
        rounds = max(len(queue) for queue in queues.values())
        drawn = [queues[ref][turn] for turn in range(rounds) for ref in sorted(queues) if turn < len(queues[ref])]
        return drawn[:limit]


class ImageFiles(ImageDataset):
    """A data set whose images are files as they are.

    Attributes:
        published: as in `read_image`.
    """

    published = False

    @abstractmethod
    def file(self, index: int) -> Path:
        """Where an image is, or, if it is missing, would be."""

    def image(self, index: int) -> torch.Tensor:
        return read_image(self.file(index), self.published)

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        return read_image(self.file(index), self.published, choose)


class Subset:
    """Some images of a data set, in a given order; enough of one to train on."""

    def __init__(self, whole: ImageDataset, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> torch.Tensor:
        return self.whole.image(self.indices[index])

    def part(self, index: int, choose: Choose) -> torch.Tensor:
        return self.whole.part(self.indices[index], choose)

    def mos(self, index: int) -> float:
        return self.whole.mos(self.indices[index])

    def thinned(self, most: int) -> Subset:
        """All of them, or so many that lie evenly among them."""
        count = min(most, len(self))
        return Subset(self.whole, [self.indices[i * len(self) // count] for i in range(count)])


EXACT_IN_RGB = ("L", "P", "RGBA")
"""Modes of Pillow that a published data set's 8-bit files may have: grey, palette, alpha that is opaque all over."""


def read_image(path: Path, published: bool = False, choose: Choose | None = None) -> torch.Tensor:
    """An 8-bit RGB image file, or a part of it, as (3, H, W) uint8.

    Args:
        path: of the file.
        published: it belongs to a data set whose raters have seen it and which cannot be mended by who has it. Then grey,
            palette and opaque alpha become RGB, which loses nothing; an EXIF orientation is ignored, as it is by
            everybody else who reads these sets; and of a camera's multi-picture JPEG the first is taken.
        choose: which part; the whole image if left out.

    Raises:
        UserError: where the file is missing, unreadable, animated, a decompression bomb or not 8-bit RGB, or where EXIF
            says that it is to be shown turned, which leaves open what "the image" is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # below twice the limit Pillow only warns
            opened = Image.open(path)
        with opened:
            several = getattr(opened, "n_frames", 1) > 1 and not (published and opened.format == "MPO")
            if several:
                raise UserError(f"{path}: has {opened.n_frames} frames; give a still image")  # type: ignore[attr-defined]
            if _is_deep(opened):
                raise UserError(f"{path}: has 16 bits a channel; convert it to 8-bit RGB first")
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1)
            if turned not in (0, 1) and not published:
                raise UserError(f"{path}: EXIF says to turn it (orientation {turned}); store its pixels upright first")
            rgb = opened if opened.mode == "RGB" else _in_rgb(opened, path, published)
            rgb.load()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({error})") from None
    if choose is not None:
        top, left, height, width = choose(rgb.height, rgb.width)
        rgb = rgb.crop((left, top, left + width, top + height))
    # line by line, a channel at a time: a third of the time of turning (H, W, 3) around
    lines = np.frombuffer(rgb.tobytes("raw", "RGB;L"), np.uint8).reshape(rgb.height, 3, rgb.width)
    return torch.from_numpy(lines.transpose(1, 0, 2).copy())


def _is_deep(opened: Image.Image) -> bool:
    """Whether it is stored with 16 bits a channel: only what the decoder is told says so, and only before it is loaded."""
    stored = [tile[3] for tile in getattr(opened, "tile", [])]
    return any(
        ";16" in str(raw) or (isinstance(raw, tuple) and opened.format == "PPM" and int(raw[-1]) > 255) for raw in stored
    )


def _in_rgb(opened: Image.Image, path: Path, published: bool) -> Image.Image:
    if not published or opened.mode not in EXACT_IN_RGB:
        raise UserError(f"{path}: mode {opened.mode} is not 8-bit RGB; convert it first")
    see_through = opened.mode == "RGBA" or "transparency" in opened.info
    alpha = opened.convert("RGBA").getchannel("A").getextrema()[0] if see_through else 255
    if alpha != 255:
        raise UserError(f"{path}: is partly transparent; put it on a background first")
    return opened.convert("RGB")
