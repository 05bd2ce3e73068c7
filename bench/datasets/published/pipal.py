"""PIPAL: outputs of restoration algorithms, including those of generative networks.

Scores are Elo ratings from pairwise comparisons and have no stated range. The range used here contains all published scores
(917 to 1836). Labels are released for the official training part only (200 of 250 references), so there is no official
split of them; the split is by reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_lines


def _read(files: Sequence[Path]) -> Frame:
    table = read_lines(files, ("image", "raw"), ",")
    table["image"] = table["image"].astype(str).str.strip()
    return table.assign(reference_id=table["image"].str.partition("_")[0])


class PIPAL(PublishedSet):
    """PIPAL: 200 references, 40 distortion types, including restoration; 23,200 distorted images, compared in pairs."""

    name = "pipal"
    title = "PIPAL"
    paper = "J. Gu et al.: PIPAL: a large-scale image quality assessment dataset for perceptual image restoration, ECCV 2020"
    licence = "for non-commercial research, with citation"
    layout = """
        Distortion_1/A0001_00_00.bmp …, to Distortion_4/, or all in Train_Dist/
        Train_Ref/A0001.bmp …
        Train_Label/A0001.txt …
    """
    raw_range = (900, 1850)
    count = 23_200
    label_files = (LabelFile(("Train_Label/A*.txt",), _read),)
    folders = (("Distortion_1", "Distortion_2", "Distortion_3", "Distortion_4"), ("Train_Dist",))
    side = (288, 288)
