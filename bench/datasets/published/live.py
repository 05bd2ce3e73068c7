"""LIVE release 2: one of the first public IQA data sets.

Its label is a DMOS, a *difference* to the reference, so lower is better; copies of references (`orgs`) are left out.
``dmos_realigned.mat`` has the five distortion types on one scale, ``dmos.mat`` does not, so the former is preferred.

The stated scale is 0 to 100, but realigned values range from −2.64 to 111.77. The range used here contains them all, so
labels stay in [0, 1] and none is clipped into a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import pandas as pd

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_mat
from iqarena.bench.errors import UserError

COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
"""Number of files in each folder, in the order of the .mat files."""


def _read(files: Sequence[Path], variable: str) -> Frame:
    scores, references = read_mat(files[0], variable), read_mat(files[1], "refnames_all")
    originals = read_mat(files[0], "orgs").astype(bool)
    names = [f"{folder}/img{number}.bmp" for folder, count in COUNTS.items() for number in range(1, count + 1)]
    for file, values in ((files[0], scores), (files[0], originals), (files[1], references)):
        if len(values) != len(names):
            raise UserError(f"{file}: holds {len(values)} values, not {len(names)}: is it of another release?")
    stems = [PurePosixPath(str(name)).stem for name in references]
    table = pd.DataFrame({"image": names, "raw": scores, "reference_id": stems})
    return table[~originals].reset_index(drop=True)


class LIVE(PublishedSet):
    """LIVE release 2: 29 references; JPEG 2000, JPEG, noise, blur and fast fading; 779 distorted images, 161 raters."""

    name = "live"
    title = "LIVE"
    paper = (
        "H. R. Sheikh, M. F. Sabir, A. C. Bovik: A statistical evaluation of recent full reference image quality assessment "
        "algorithms, IEEE Transactions on Image Processing 15(11), 2006"
    )
    licence = "free to use, copy and distribute with LIVE's copyright notice and citation"
    layout = """
        jp2k/img1.bmp … img227.bmp
        jpeg/ wn/ gblur/ fastfading/ likewise
        refimgs/*.bmp
        refnames_all.mat
        dmos_realigned.mat or dmos.mat
    """
    raw_range = (-3, 112)
    higher_is_better = False
    count = 779
    label_files = (
        LabelFile(("dmos_realigned.mat", "refnames_all.mat"), partial(_read, variable="dmos_new")),
        LabelFile(("dmos.mat", "refnames_all.mat"), partial(_read, variable="dmos")),
    )
    folders = (("",),)
    beside = r"(jp2k|jpeg|wn|gblur|fastfading)/img\d+\.bmp|refimgs/.*"
