"""KADID-10k. Its label is called a DMOS, but 5 means imperceptible and 1 very annoying, so higher is better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_csv, renamed


def _read(files: Sequence[Path]) -> Frame:
    table = renamed(read_csv(files[0]), files[0], image="dist_img", reference_id="ref_img", raw="dmos")
    return table.assign(reference_id=table["reference_id"].astype(str).str.removesuffix(".png"))


class KADID10k(PublishedSet):
    """KADID-10k: 81 references, 25 distortion types at five levels; 10,125 distorted images, rated by a crowd."""

    name = "kadid10k"
    title = "KADID-10k"
    paper = "H. Lin, V. Hosu, D. Saupe: KADID-10k: a large-scale artificially distorted IQA database, QoMEX 2019"
    licence = "for research, with citation; images under the Pixabay licence"
    layout = """
        images/I01_01_01.png …, and the references I01.png … I81.png beside them
        dmos.csv
    """
    raw_range = (1, 5)
    count = 10_125
    label_files = (LabelFile(("dmos.csv",), _read),)
    folders = (("images",),)
    beside = r"images/i\d\d\.png"
    side = (512, 384)
