"""What a data set is here: pictures with a reference picture each and, mostly, a label."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from bench.errors import UserError


@dataclass(frozen=True)
class Sample:
    """One picture: its id, the id of the reference picture it derives from, its label in [0, 1] (NaN if none)."""

    image_id: str
    reference_id: str
    mos: float = math.nan


class ImageDataset(ABC):
    """Pictures in a fixed order; decoded one at a time, on demand.

    Attributes:
        name: registry name.
        label_kind: "MOS", "pseudo-MOS" or "none"; shown wherever a number made from the labels is shown.
        samples: all pictures.
        fingerprint: sha256 over what defines pictures and labels.
    """

    name: str
    label_kind: str
    samples: Sequence[Sample]
    fingerprint: str

    @classmethod
    @abstractmethod
    def open(cls, root: Path | None) -> ImageDataset:
        """The data set, found below `root` where it needs one.

        Raises:
            UserError: where it is not there.
        """

    @abstractmethod
    def picture(self, index: int) -> torch.Tensor:
        """The picture as (3, H, W) uint8 RGB.

        Raises:
            UserError: where it cannot be read.
        """

    def __len__(self) -> int:
        return len(self.samples)

    def mos(self, index: int) -> float:
        """Label in [0, 1], 1 = best; NaN where there is none."""
        return self.samples[index].mos

    def spread(self, limit: int | None, references: Collection[str] | None = None) -> list[int]:
        """Indices of at most `limit` pictures (of some references), evenly over the references, the same on every machine.

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


class Subset:
    """Some pictures of a data set, in a given order; enough of one to train on."""

    def __init__(self, whole: ImageDataset, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def picture(self, index: int) -> torch.Tensor:
        return self.whole.picture(self.indices[index])

    def mos(self, index: int) -> float:
        return self.whole.mos(self.indices[index])


def read_picture(path: Path) -> torch.Tensor:
    """An 8-bit RGB picture file as (3, H, W) uint8.

    Raises:
        UserError: where the file is missing, unreadable, animated or not 8-bit RGB.
    """
    try:
        with Image.open(path) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                raise UserError(f"{path}: has {opened.n_frames} frames; give a still picture")  # type: ignore[attr-defined]
            if opened.mode != "RGB":
                raise UserError(f"{path}: mode {opened.mode} is not 8-bit RGB; convert it first")
            values = np.asarray(opened)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable picture ({error})") from None
    return torch.from_numpy(values.copy()).permute(2, 0, 1).contiguous()
