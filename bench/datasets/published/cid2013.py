"""CID2013. Scenes photographed with many cameras, in six studies (image sets) whose scores were realigned to one scale.

The images of one scene in one image set differ only by the camera, so they share a reference; there are 36 references. The
stated scale is 0 to 100, but realigned values go down to −9.55, so the range starts at −10 and no label is clipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from iqarena.bench.datasets.published.base import LabelFile, PublishedSet
from iqarena.bench.datasets.tables import Frame, read_sheet, renamed
from iqarena.bench.errors import UserError

_NAME = re.compile(r"IS_(?P<set>[IV]+)_C(?P<scene>\d\d)_D\d\d")
_ROMAN = {"I": 1, "II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6}


def _read(files: Sequence[Path]) -> Frame:
    table = renamed(read_sheet(files[0], "CID2013 MOS"), files[0], image="Source_ID", raw="Realigned MOS").dropna(how="all")
    folders = [_folder(str(name), files[0]) for name in table["image"]]
    names = [f"{folder}/{name}.jpg" for folder, name in zip(folders, table["image"], strict=True)]
    return pd.DataFrame({"image": names, "raw": table["raw"].to_numpy(), "reference_id": folders})


def _folder(name: str, file: Path) -> str:
    """Return the official folder of an image, which is also the id of its reference."""
    match = _NAME.fullmatch(name)
    if match is None or match["set"] not in _ROMAN:
        raise UserError(f"{file}: Source_ID {name} is not of the form IS_I_C01_D01: is it of another release?")
    return f"IS{_ROMAN[match['set']]}/co{int(match['scene'])}"


class CID2013(PublishedSet):
    """CID2013: 474 photographs of 79 consumer cameras, rated in the laboratory."""

    name = "cid2013"
    title = "CID2013"
    paper = (
        "T. Virtanen, M. Nuutinen, M. Vaahteranoksa, P. Oittinen, J. Häkkinen: CID2013: a database for evaluating "
        "no-reference image quality assessment algorithms, IEEE Transactions on Image Processing 24(1), 2015"
    )
    licence = "for research, with citation"
    layout = """
        IS1/co1/IS_I_C01_D01.jpg …, to IS6/co8/
        CID2013 data - version 12112014.xlsx
    """
    raw_range = (-10, 100)
    count = 474
    label_files = (LabelFile(("CID2013 data - version *.xlsx",), _read),)
    folders = (("",),)

    def _read_common(self, files: Sequence[Path]) -> Frame:
        table = super()._read_common(files)
        return table.assign(reference_id=table["image"].str.rpartition("/")[0])
