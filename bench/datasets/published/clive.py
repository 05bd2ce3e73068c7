"""LIVE In the Wild (LIVE Challenge). The seven images t1 … t7 of the raters' training session are left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_mat
from iqarena.bench.errors import UserError


def _read(files: Sequence[Path]) -> Frame:
    scores, names = read_mat(files[0], "AllMOS_release"), read_mat(files[1], "AllImages_release")
    if len(scores) != len(names):
        raise UserError(f"{files[0]}: holds {len(scores)} scores for {len(names)} names: are they of one release?")
    table = pd.DataFrame({"image": [str(name) for name in names], "raw": scores})
    return table[~table["image"].str.fullmatch(r"t\d+\.bmp")].reset_index(drop=True)


class CLIVE(PublishedSet):
    """LIVE In the Wild: 1,162 images of mobile cameras with authentic distortions, rated by a crowd."""

    name = "clive"
    title = "LIVE In the Wild"
    paper = (
        "D. Ghadiyaram, A. C. Bovik: Massive online crowdsourced study of subjective and objective image quality, IEEE "
        "Transactions on Image Processing 25(1), 2016"
    )
    licence = "free to use, copy and distribute with LIVE's copyright notice and citation"
    layout = """
        Images/3.bmp … 1164.bmp (some are .JPG), and Images/trainingImages/t1.bmp … t7.bmp
        Data/AllMOS_release.mat
        Data/AllImages_release.mat
    """
    raw_range = (0, 100)
    count = 1162
    common_count = 1161  # the IQA-Dataset project's file lacks 100.bmp
    label_files = (LabelFile(("Data/AllMOS_release.mat", "Data/AllImages_release.mat"), _read),)
    folders = (("Images",),)
    beside = r"images/trainingimages/.*"
