"""SPAQ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_csv, read_sheet, renamed


def _read(files: Sequence[Path]) -> Frame:
    table = read_sheet(files[0]) if files[0].suffix.lower() == ".xlsx" else read_csv(files[0])
    return renamed(table, files[0], image="Image name", raw="MOS")


class SPAQ(PublishedSet):
    """SPAQ: 11,125 photographs of 66 smartphones, rated in the laboratory."""

    name = "spaq"
    title = "SPAQ"
    paper = "Y. Fang, H. Zhu, Y. Zeng, K. Ma, Z. Wang: Perceptual quality assessment of smartphone photography, CVPR 2020"
    licence = "for research, with citation"
    layout = """
        TestImage/00001.jpg … 11125.jpg
        Annotations/MOS and Image attribute scores.xlsx (or saved as .csv)
    """
    raw_range = (0, 100)
    count = 11_125
    label_files = (
        LabelFile(("Annotations/MOS and Image attribute scores.xlsx",), _read),
        LabelFile(("Annotations/MOS and Image attribute scores.csv",), _read),
    )
    folders = (("TestImage",), ("Dataset/TestImage",))
