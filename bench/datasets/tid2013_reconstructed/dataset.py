"""`tid2013-reconstructed`: TID2013's human scores for distorted images that are reconstructed from the Kodak images.

TID2013's references I01 to I24 are crops of Kodak's 24 images (I25 is synthetic and left out), and 15 of its 24 distortion
types are defined well enough to be reproduced: `iqarena.bench.datasets.tid2013_reconstructed.distortions`. Types 7, 8, 10,
16 and 17 are reproduced exactly; the others differ from the rated images in the noise sample, in the codec or in the
precision of the tuning, so the scores belong to similar images. For the similarity see docs/tid2013-reconstructed.md. Types
4, 9, 12, 13, 14, 15, 20, 21 and 24 are left out, since they depend on filters, codecs or positions that are not published,
and so are the levels of type 23 that are more than a shift of colours.

Images are built on demand and kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from iqarena.bench.datasets.base import ImageDataset, Sample, read_image
from iqarena.bench.datasets.demo.dataset import cache_folder, pixel_hash
from iqarena.bench.datasets.published.tid2013 import TID2013
from iqarena.bench.datasets.tables import Frame, read_lines
from iqarena.bench.datasets.tid2013_reconstructed.distortions import DISTORTIONS, PIXEL_IMPULSES, Pixels
from iqarena.bench.datasets.tree import Tree
from iqarena.bench.errors import UserError

RECIPE = 1
"""Version of the reconstruction: raised whenever the image of any reference and distortion changes."""

LABELS = ("mos_with_names.txt", "tid2013_mos_with_names.txt")
WIDTH, HEIGHT = 512, 384

CROPS = {
    "I01": (126, 104),
    "I02": (30, 83),
    "I03": (44, 73),
    "I04": (206, 0),
    "I05": (21, 104),
    "I06": (43, 66),
    "I07": (93, 153),
    "I08": (4, 71),
    "I09": (292, 0),
    "I10": (337, 0),
    "I11": (55, 252),
    "I12": (40, 131),
    "I13": (41, 119),
    "I14": (93, 147),
    "I15": (56, 236),
    "I16": (8, 121),
    "I17": (74, 0),
    "I18": (150, 0),
    "I19": (255, 0),
    "I20": (61, 57),
    "I21": (60, 28),
    "I22": (33, 59),
    "I23": (47, 66),
    "I24": (116, 65),
}
"""Top-left corner (row, column) in kodim01 to kodim24. Each is the only position where quantization and mean shift have the
PSNR of TID2013's PSNRc.txt, to its four decimals, at all ten levels; six are also verified pixel by pixel."""

CROP_HASHES = {
    "I01": "808da29e5ff6c599",
    "I02": "b3c8473e375d8669",
    "I03": "1fb124711e7dbc43",
    "I04": "2bc7cea14d16417d",
    "I05": "67a683ffcea8490f",
    "I06": "200ebee2986e6994",
    "I07": "ec80f8d3fa10712e",
    "I08": "6e6ad40488f078f9",
    "I09": "b3cfc90384678582",
    "I10": "4ed98075e5e1ecad",
    "I11": "6c61ab2b60b165f7",
    "I12": "fac3c1a4a00fa25f",
    "I13": "fe67e3ce20f54c77",
    "I14": "cfde9c0d4bcdc08e",
    "I15": "0407fe1926b9b256",
    "I16": "684c92c557d9267a",
    "I17": "0d3ec0769e509d80",
    "I18": "c960d63a0b3dc1d0",
    "I19": "03418f152efc7b1f",
    "I20": "6f72e97d3a63be2c",
    "I21": "b3c2f367da12a1c0",
    "I22": "c016a9115c13e319",
    "I23": "793218bba20ee002",
    "I24": "77e0a3d7a2fb1137",
}
"""First digits of the sha256 of each crop's pixels."""

MERE_SHIFTS = {
    "I01": 4,
    "I02": 2,
    "I03": 2,
    "I04": 1,
    "I05": 5,
    "I06": 4,
    "I07": 2,
    "I08": 5,
    "I09": 3,
    "I10": 2,
    "I11": 4,
    "I12": 2,
    "I13": 5,
    "I14": 4,
    "I15": 2,
    "I16": 1,
    "I17": 2,
    "I18": 4,
    "I19": 5,
    "I20": 3,
    "I21": 4,
    "I22": 3,
    "I23": 2,
    "I24": 4,
}
"""The level of type 23 up to which the luminance PSNR of a reference is 8 dB above the PSNR of all colours (PSNR.txt,
PSNRc.txt), as for a shift of red against blue; above that level it lost detail in a way that is not published."""

KINDS = {distortion.number: distortion for distortion in DISTORTIONS}


class TID2013Reconstructed(ImageDataset):
    """TID2013 reconstructed: 1,755 distorted images, rebuilt from 24 Kodak images, with TID2013's human scores."""

    name = "tid2013-reconstructed"
    label_kind = "MOS (reconstructed)"
    paper = TID2013.paper
    licence = "labels: for research, with citation; images of the Kodak suite: for unrestricted use"
    layout = """
        kodim01.png … kodim24.png, in any folder
        mos_with_names.txt or tid2013_mos_with_names.txt, in any folder
    """
    raw_range = (0, 9)
    count = 1755

    def __init__(self, root: Path) -> None:
        """Read the labels and find Kodak's images.

        Raises:
            UserError: if an image is missing, or the label file is not TID2013's.
        """
        tree = Tree(root)
        self.label_file = _find_labels(tree)
        self.originals = _find_kodak_images(tree)
        table = _read(self.label_file)
        kept = [
            kind in KINDS and reference in CROPS and (kind != 23 or level <= MERE_SHIFTS[reference])
            for reference, kind, level in zip(table["reference"], table["kind"], table["level"], strict=True)
        ]
        table = table[kept]
        self.kinds, self.levels = list(table["kind"]), list(table["level"])
        rows = zip(table["image"], table["reference"], table["raw"], strict=True)
        self.samples = [Sample(image, reference, self._label(raw), raw) for image, reference, raw in rows]
        defining = [self.name, RECIPE, *CROP_HASHES.values(), *((s.image_id, s.raw) for s in self.samples)]
        self.fingerprint = hashlib.sha256("\n".join(map(str, defining)).encode()).hexdigest()

    @classmethod
    def open(cls, root: Path | None) -> TID2013Reconstructed:
        """Open the data set; its images are built on demand.

        Raises:
            UserError: as the constructor.
        """
        if root is None:
            raise UserError(
                f"the data set {cls.name!r} needs --root DIR, a folder with Kodak's kodim01.png to kodim24.png and "
                f"TID2013's {LABELS[0]}"
            )
        return cls(root)

    def image(self, index: int) -> torch.Tensor:
        path = self.folder / f"{self.samples[index].image_id}.png"
        if not path.is_file():
            _save(self.reconstruct(index), path)
        image = read_image(path)
        if image.shape != (3, HEIGHT, WIDTH):
            raise UserError(f"{path}: not the image that was put there; delete it to have it made anew")
        return image

    @property
    def folder(self) -> Path:
        """The folder where built images are kept; it does not depend on the labels."""
        return cache_folder() / f"{self.name}-{RECIPE}"

    def reconstruct(self, index: int) -> Pixels:
        """Build a distorted image (H, W, 3)."""
        sample, kind, level = self.samples[index], KINDS[self.kinds[index]], self.levels[index]
        if kind.number == 6 and level > 1 and int(sample.reference_id[1:]) % 2 == 0:
            kind = PIXEL_IMPULSES
        return kind.apply(self.reference(sample.reference_id), level, sample.image_id)

    def reference(self, reference_id: str) -> Pixels:
        """Return a reference image, a crop (H, W, 3) of a Kodak image.

        Raises:
            UserError: if the file is not the Kodak image.
        """
        path, (top, left) = self.originals[reference_id], CROPS[reference_id]
        original = read_image(path).permute(1, 2, 0).numpy()
        crop = np.ascontiguousarray(original[top : top + HEIGHT, left : left + WIDTH])
        if not pixel_hash(crop).startswith(CROP_HASHES[reference_id]):
            raise UserError(f"{path}: not the image of the Kodak suite, pixel by pixel; get the PNG of 768×512 anew")
        return crop


class Originals(ImageDataset):
    """The files of the data set on disk: Kodak's images, each checked when it is read."""

    name, label_kind = "kodak24", "none"

    def __init__(self, dataset: TID2013Reconstructed) -> None:
        self.dataset, self.references = dataset, list(CROPS)
        self.samples = [Sample(dataset.originals[reference].name, reference) for reference in self.references]
        self.fingerprint = dataset.fingerprint

    @classmethod
    def open(cls, root: Path | None) -> Originals:
        return cls(TID2013Reconstructed.open(root))

    def image(self, index: int) -> torch.Tensor:
        """Return the crop of a Kodak image that is TID2013's reference."""
        return torch.from_numpy(self.dataset.reference(self.references[index])).permute(2, 0, 1)


def _find_labels(tree: Tree) -> Path:
    for name in LABELS:
        if folders := tree.folders_with(name):
            return tree.matching(folders[0], name)[0]
    raise UserError(f"{tree.root}: holds no label file of TID2013 ({' or '.join(LABELS)}); put it beside Kodak's images")


def _find_kodak_images(tree: Tree) -> dict[str, Path]:
    """Return the path of the Kodak image of every reference."""
    paths: dict[str, Path] = {}
    for reference in CROPS:
        name = f"kodim{reference[1:]}.png"
        if folders := tree.folders_with(name):
            paths[reference] = tree.matching(folders[0], name)[0]
    if missing := [reference for reference in CROPS if reference not in paths]:
        raise UserError(
            f"{tree.root}: {len(missing)} of Kodak's 24 images are missing, the first is kodim{missing[0][1:]}.png"
        )
    return paths


def _read(file: Path) -> Frame:
    """Read all labels: image (in lower case), raw, reference (I01 …), kind and level."""
    table = read_lines([file], ("raw", "image"), r"\s+")
    if len(table) != TID2013.count:
        raise UserError(f"{file}: holds {len(table):,} labels, TID2013 has {TID2013.count:,}: cut, or of another release?")
    table["image"] = table["image"].astype(str).str.lower().str.removesuffix(".bmp")
    # 25 references, 24 types and 5 levels are 3,000 names: if there are no duplicates, none is missing
    parts = table["image"].str.extract(r"^i(0[1-9]|1\d|2[0-5])_(0[1-9]|1\d|2[0-4])_([1-5])$")
    raw = pd.to_numeric(table["raw"], errors="coerce")
    wrong = parts[0].isna() | ~raw.between(0, 9) | table["image"].duplicated()
    if wrong.any():
        first = table[wrong].iloc[0]
        raise UserError(f"{file}: {first['raw']} {first['image']} is no score from 0 to 9 of an image that is named once")
    return pd.DataFrame(
        {
            "image": table["image"],
            "raw": raw,
            "reference": "I" + parts[0],
            "kind": parts[1].astype(int),
            "level": parts[2].astype(int),
        }
    )


def _save(image: Pixels, path: Path) -> None:
    """Write an image under a temporary name and rename it, since several processes may build the same image."""
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Image.fromarray(image).save(temporary, "PNG", compress_level=1)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written to ({error.strerror}); set IQARENA_CACHE elsewhere") from None
