"""`images`: a directory of images without labels."""

from __future__ import annotations

import hashlib
from pathlib import Path

from iqarena.bench.datasets.base import ImageFiles, Sample
from iqarena.bench.datasets.tree import Tree, check_ids
from iqarena.bench.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".jp2")


class Images(ImageFiles):
    """All images below a directory, without labels, for measures of stability; each image is its own reference."""

    name = "images"
    label_kind = "none"
    layout = """
        *.png, .jpg, .jpeg, .bmp, .tif, .tiff, .webp, .ppm, .jp2 below ROOT
    """

    def __init__(self, root: Path) -> None:
        """List the directory; images are opened on demand.

        Raises:
            UserError: if there is no image.
        """
        self.root = root
        names = sorted(name for name in Tree(root).files.values() if name.lower().endswith(SUFFIXES))
        if not names:
            raise UserError(f"{root}: holds no image ({', '.join(SUFFIXES)})")
        check_ids(names)
        self.samples = [Sample(name, name) for name in names]
        # the sizes stand in for the pixels, which every cell hashes anyway
        listing = "\n".join(f"{name} {(root / name).stat().st_size}" for name in names)
        self.fingerprint = hashlib.sha256(listing.encode()).hexdigest()

    @classmethod
    def open(cls, root: Path | None) -> Images:
        """Open the directory `root`."""
        if root is None:
            raise UserError("the data set 'images' needs --root DIR, a directory of images")
        return cls(root)

    def file(self, index: int) -> Path:
        return self.root / self.samples[index].image_id
