"""CSIQ. Its label is a DMOS, so lower is better.

The workbook's sheet ``all_by_image`` lists type and level of each image, not its file; the header is not in the first row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_sheet, renamed
from iqarena.bench.errors import UserError

FOLDERS = {
    "noise": "AWGN",
    "blur": "BLUR",
    "contrast": "contrast",
    "fnoise": "fnoise",
    "jpeg": "JPEG",
    "jpeg2000": "jpeg2000",
}
"""From the workbook's distortion types to the folders, whose names are also part of the file names."""


def _read(files: Sequence[Path]) -> Frame:
    cells = read_sheet(files[0], "all_by_image", header=None)
    headers = [row for row in range(min(len(cells), 20)) if "dst_type" in set(cells.iloc[row])]
    if not headers:
        raise UserError(f"{files[0]}: the sheet all_by_image has no header with dst_type: is it of another release?")
    table = cells.iloc[headers[0] + 1 :].set_axis(cells.iloc[headers[0]].astype(str), axis=1)
    table = renamed(table, files[0], image="image", kind="dst_type", level="dst_lev", raw="dmos").dropna(how="all")
    kinds = table["kind"].astype(str).str.replace(" ", "")
    if unknown := set(kinds) - set(FOLDERS):
        raise UserError(f"{files[0]}: unknown dst_type {sorted(unknown)[0]}: is it of another release?")
    references = list(table["image"].astype(str))  # one of them is called 1600
    rows = zip(references, kinds.map(FOLDERS), table["level"].astype(int), strict=True)
    names = [f"{folder}/{image}.{folder}.{level}.png" for image, folder, level in rows]
    return pd.DataFrame({"image": names, "raw": table["raw"].to_numpy(), "reference_id": references})


class CSIQ(PublishedSet):
    """CSIQ: 30 references; JPEG, JPEG 2000, blur, white and pink noise, contrast; 866 distorted images, 35 raters."""

    name = "csiq"
    title = "CSIQ"
    paper = (
        "E. C. Larson, D. M. Chandler: Most apparent distortion: full-reference image quality assessment and the role of "
        "strategy, Journal of Electronic Imaging 19(1), 2010"
    )
    licence = "for research, with citation"
    layout = """
        dst_imgs/AWGN/1600.AWGN.1.png …, and BLUR/ contrast/ fnoise/ JPEG/ jpeg2000/ likewise
        src_imgs/*.png
        csiq.DMOS.xlsx or csiq.beta.xlsx
    """
    raw_range = (0, 1)
    higher_is_better = False
    count = 866
    label_files = (LabelFile(("csiq.DMOS.xlsx",), _read), LabelFile(("csiq.beta.xlsx",), _read))
    folders = (("dst_imgs",),)
    side = (512, 512)
