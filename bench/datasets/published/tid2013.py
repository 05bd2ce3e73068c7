"""TID2013. Names mix ``I01`` and ``i01``, ``.bmp`` and ``.BMP``, differently in labels and folders; ids are lower case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_lines


def _read(files: Sequence[Path]) -> Frame:
    table = read_lines(files, ("raw", "image"), r"\s+")
    table["image"] = table["image"].str.lower()
    return table.assign(reference_id=table["image"].str.partition("_")[0])


class TID2013(PublishedSet):
    """TID2013: 25 references, 24 distortion types at five levels; 3,000 distorted images, 971 raters from five countries."""

    name = "tid2013"
    title = "TID2013"
    paper = (
        "N. Ponomarenko et al.: Image database TID2013: peculiarities, results and perspectives, Signal Processing: Image "
        "Communication 30, 2015"
    )
    licence = "for research, with citation"
    layout = """
        distorted_images/i01_01_1.bmp …
        reference_images/I01.BMP …
        mos_with_names.txt
    """
    raw_range = (0, 9)
    count = 3000
    label_files = (LabelFile(("mos_with_names.txt",), _read),)
    folders = (("distorted_images",),)
    side = (512, 384)

    @classmethod
    def image_of(cls, path: str) -> str:
        return super().image_of(path).lower()
