"""`demo`: the embedded data set. Six images that come with scikit-image and scikit-learn, distorted here.

    astronaut, chelsea, coffee, rocket   scikit-image; NASA, S. van der Walt, R. Michetti, SpaceX (CC0, public domain)
    china, flower                        scikit-learn; flickr users danielbuechele and vultilion (CC BY 2.0)

Two crops of each, 192×192, with nineteen distortion types at five levels and the pristine crop: 1,152 images. Their labels
are pseudo-MOS (see `iqarena.bench.datasets.demo.pseudo_mos`), not human ratings. ``demo.csv`` has the label and the sha256
of the pixels of every image. Images are built once, in the user's cache folder, and checked against it on every read.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs
import torch
from PIL import Image

from iqarena.bench.datasets.base import ImageDataset, Sample, read_image
from iqarena.bench.datasets.demo.distortions import DISTORTIONS, Pixels
from iqarena.bench.errors import UserError

MANIFEST = Path(__file__).with_name("demo.csv")
SIDE = 192
CROPS = {
    "astronaut": ((20, 130), (310, 60)),
    "chelsea": ((60, 60), (100, 259)),
    "coffee": ((60, 180), (190, 390)),
    "rocket": ((130, 230), (235, 20)),
    "china": ((100, 180), (225, 420)),
    "flower": ((43, 200), (235, 300)),
}
"""Top-left corners (row, column) of the crops of each image."""


def _source(name: str) -> Pixels:
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        loaded: Pixels = load_sample_image(f"{name}.jpg")
        return loaded
    from skimage import data

    return np.asarray(getattr(data, name)())


def render() -> Iterator[tuple[str, str, str, int, Pixels]]:
    """Yield every image of the data set as (image_id, reference_id, distortion, level, pixels); level 0 is pristine."""
    for name, corners in CROPS.items():
        source = _source(name)
        for number, (top, left) in enumerate(corners):
            crop = np.ascontiguousarray(source[top : top + SIDE, left : left + SIDE])
            yield f"{name}-{number}-pristine", name, "pristine", 0, crop
            for distortion in DISTORTIONS:
                for level in range(1, 6):
                    image_id = f"{name}-{number}-{distortion.name}-{level}"
                    seed = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:4], "big")
                    yield image_id, name, distortion.name, level, distortion.apply(crop, level, np.random.RandomState(seed))


def pixel_hash(image: Pixels) -> str:
    """Return the sha256 of the pixels, row by row, RGB."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def cache_folder() -> Path:
    """Return ``IQARENA_CACHE`` if set, else the platform's cache folder for this project."""
    return Path(os.environ.get("IQARENA_CACHE") or platformdirs.user_cache_dir("iqarena"))


class Demo(ImageDataset):
    """The embedded data set: six images under nineteen distortions at five levels; it is built once, in a few seconds."""

    name = "demo"
    label_kind = "pseudo-MOS"
    licence = "CC0 or public domain; china and flower: CC BY 2.0, flickr users danielbuechele and vultilion"
    raw_range = (0, 1)
    count = 1152

    def __init__(self) -> None:
        table = pd.read_csv(MANIFEST)
        self.samples = [
            Sample(i, r, float(m)) for i, r, m in zip(table.image_id, table.reference_id, table.mos, strict=True)
        ]
        self.hashes: list[str] = list(table.sha256)
        self.fingerprint = hashlib.sha256(MANIFEST.read_bytes()).hexdigest()

    @classmethod
    def open(cls, root: Path | None) -> Demo:
        """Open the embedded data set; it needs no root."""
        return cls()

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the images; it is built on first use under a temporary name, and renamed when complete."""
        folder = cache_folder() / f"demo-{self.fingerprint[:16]}"
        if folder.is_dir():
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix="demo-part-", dir=folder.parent))
            try:
                self._build(temporary)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                raise UserError(
                    f"{folder.parent}: cannot be written to ({error.strerror}); set IQARENA_CACHE to another folder"
                ) from None
        return folder

    def _build(self, folder: Path) -> None:
        """Write the images as PNG files, checking each against the manifest."""
        for (image_id, *_, image), expected in zip(render(), self.hashes, strict=True):
            if pixel_hash(image) != expected:
                raise UserError(
                    f"demo image {image_id}: the pixels built here differ from the manifest's; "
                    "another version of Pillow, NumPy or SciPy than tested, please report yours"
                )
            Image.fromarray(image).save(folder / f"{image_id}.png", compress_level=1)

    def image(self, index: int) -> torch.Tensor:
        path = self.folder / f"{self.samples[index].image_id}.png"
        image = read_image(path)
        if pixel_hash(image.permute(1, 2, 0).numpy()) != self.hashes[index]:
            raise UserError(f"{path}: not the image of the manifest; delete the folder {self.folder} to have it built anew")
        return image
