"""PIPAL: outputs of restoration algorithms, those of generative networks among them.

Scores are Elo ratings of pairwise choices; they have no stated ends. The range holds all published ones (917 to 1836).
What is released with labels is the official training part (200 of 250 references), so there is no official split of it:
ours is by reference.
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
    """PIPAL: 200 patches, 40 distortion types, restoration algorithms among them; 23,200 distorted ones, rated in pairs."""

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
