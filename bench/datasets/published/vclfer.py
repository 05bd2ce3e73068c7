"""VCL@FER. Its label is a MOS, which falls with the level of each distortion.

The authors publish the scores separately from the images, in ``results.xls``. Every row that names an image is used, with
the value of its column MOS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_sheet
from iqarena.bench.errors import UserError

_NAME = re.compile(r"IMG_\d\d_(AWGN|BLU|J2K|JPG)_\d")


def _read(files: Sequence[Path]) -> Frame:
    cells = read_sheet(files[0], header=None)
    named = [column for column in cells if cells[column].astype(str).map(lambda cell: bool(_NAME.match(cell))).any()]
    scored = [column for column in cells if (cells[column].astype(str).str.strip().str.upper() == "MOS").any()]
    if not (named and scored):
        raise UserError(f"{files[0]}: has no names like IMG_01_AWGN_1 or no column MOS: is it of another release?")
    rows = cells[cells[named[0]].astype(str).map(lambda cell: bool(_NAME.match(cell)))]
    stems = [_NAME.match(str(cell))[0] for cell in rows[named[0]]]  # type: ignore[index]
    names = [f"{stem}.{'jpg' if '_JPG_' in stem else 'bmp'}" for stem in stems]
    return pd.DataFrame({"image": names, "raw": rows[scored[0]].to_numpy(), "reference_id": [stem[:6] for stem in stems]})


class VCLFER(PublishedSet):
    """VCL@FER: 23 references; noise, blur, JPEG 2000 and JPEG at six levels; 552 distorted images, 118 raters."""

    name = "vclfer"
    title = "VCL@FER"
    paper = "A. Zarić et al.: VCL@FER image quality assessment database, AUTOMATIKA 53(4), 2012"
    licence = "academic research only, with citation; not to be passed on"
    layout = """
        vcl_fer/IMG_01_AWGN_1.bmp … (JPEG ones are .jpg), and the references IMG_01.bmp … IMG_23.bmp
        results.xls
    """
    raw_range = (0, 100)
    count = 552
    label_files = (LabelFile(("results.xls",), _read),)
    folders = (("vcl_fer",), ("",))
    beside = r"(vcl_fer/|ref_images/)*img_\d\d\.bmp"
