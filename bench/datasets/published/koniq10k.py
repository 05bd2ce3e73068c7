"""KonIQ-10k. There are two label files: one with MOS from 1 to 5, one with MOS from 0 to 100 and the official split.

The second is preferred for its split. They are not the same numbers on two scales (the second weights the raters), so the
fingerprints of the two differ. ``1024x768/`` is preferred over the reduced ``512x384/``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_csv, renamed


def _read(files: Sequence[Path]) -> Frame:
    return renamed(read_csv(files[0]), files[0], image="image_name", raw="MOS")


def _read_with_split(files: Sequence[Path]) -> Frame:
    return renamed(read_csv(files[0]), files[0], image="image_name", raw="MOS", split="set")


class KonIQ10k(PublishedSet):
    """KonIQ-10k: 10,073 images in the wild, rated by a crowd; with an official split."""

    name = "koniq10k"
    title = "KonIQ-10k"
    paper = (
        "V. Hosu, H. Lin, T. Szirányi, D. Saupe: KonIQ-10k: an ecologically valid database for deep learning of blind image "
        "quality assessment, IEEE Transactions on Image Processing 29, 2020"
    )
    licence = "for research, with citation; images under their Creative Commons licences (YFCC100m)"
    layout = """
        1024x768/*.jpg or 512x384/*.jpg
        koniq10k_distributions_sets.csv (MOS 0 to 100, split) or koniq10k_scores_and_distributions.csv (MOS 1 to 5)
    """
    split_description = "official"
    raw_range = (1, 5)
    count = 10_073
    label_files = (
        LabelFile(("koniq10k_distributions_sets.csv",), _read_with_split, raw_range=(0, 100)),
        LabelFile(("koniq10k_scores_and_distributions.csv",), _read),
    )
    folders = (("1024x768",), ("512x384",))

    def expected_size(self) -> tuple[int, int] | None:
        size = re.fullmatch(r"(\d+)x(\d+)", self.image_folders[0].rstrip("/").rpartition("/")[2])
        return (int(size[1]), int(size[2])) if size else None
