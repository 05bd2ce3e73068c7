"""The official layouts and file formats of published data sets, with about three small images each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from iqarena.bench.datasets import CID2013, CLIVE, CSIQ, DATASETS, LIVE, PIPAL, SPAQ, TID2013, VCLFER, KADID10k, KonIQ10k
from iqarena.bench.datasets.published.base import PublishedSet
from iqarena.bench.datasets.published.live import COUNTS


def image(path: Path, seed: int = 0, width: int = 24, height: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def cells(values: list[str]) -> np.ndarray:
    """Return a MATLAB cell array of strings, one row."""
    out = np.empty((1, len(values)), dtype=object)
    out[0] = values
    return out


def live(root: Path) -> None:
    """Write LIVE with all 982 entries, since the order of folders matters."""
    total = sum(COUNTS.values())
    originals = np.zeros((1, total), np.uint8)
    originals[0, ::4][:203] = 1
    scores = np.linspace(-2, 111, total)[None]
    names = [f"scene{i % 29}.bmp" for i in range(total)]
    savemat(root / "dmos_realigned.mat", {"dmos_new": scores, "orgs": originals, "dmos_std": scores})
    savemat(root / "dmos.mat", {"dmos": scores[:, ::-1], "orgs": originals})
    savemat(root / "refnames_all.mat", {"refnames_all": cells(names)})
    for folder, count in COUNTS.items():
        for number in range(1, count + 1):
            image(root / folder / f"img{number}.bmp", number, 8, 6)
    image(root / "refimgs" / "scene0.bmp", 0, 8, 6)
    (root / "jp2k" / "info.txt").write_text("scene0.bmp img1.bmp 0\n")


def workbook(path: Path, sheets: dict[str, list[list[object]]]) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path.with_suffix(".xlsx"))
    path.with_suffix(".xlsx").rename(path)


def csiq(root: Path) -> None:
    header = [None, None, None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
    rows = [
        [None, None, None, 1600, 1, "noise", 1, 0.1, 0.0],
        [None, None, None, 1600, 2, "blur", 2, 0.1, 0.25],
        [None, None, None, "woman", 4, "jpeg 2000", 5, 0.1, 1.0],
    ]
    workbook(root / "csiq.DMOS.xlsx", {"z_crit": [[1, 2]], "all_by_image": [[None] * 9] * 3 + [header, *rows]})
    for name in ("AWGN/1600.AWGN.1", "BLUR/1600.BLUR.2", "jpeg2000/woman.jpeg2000.5"):
        image(root / "dst_imgs" / f"{name}.png")
    image(root / "src_imgs" / "1600.png")


def tid2013(root: Path) -> None:
    (root / "mos_with_names.txt").write_text("5.51429 I01_01_1.bmp\n9.0 i01_01_2.bmp\n0.0 i25_24_5.bmp\n")
    for name in ("i01_01_1.bmp", "I01_01_2.BMP", "I25_24_5.bmp"):
        image(root / "distorted_images" / name)
    image(root / "reference_images" / "I01.BMP")


def kadid10k(root: Path) -> None:
    rows = "I01_01_01.png,I01.png,4.57,0.496\nI01_01_02.png,I01.png,5,0\nI81_25_05.png,I81.png,1,0\n"
    (root / "dmos.csv").write_text(f"dist_img,ref_img,dmos,var\n{rows}")
    for name in ("I01_01_01", "I01_01_02", "I81_25_05", "I01", "I81"):
        image(root / "images" / f"{name}.png")


def koniq10k(root: Path) -> None:
    header, counts = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD", "0.0,0.0,0.2,0.7,0.1,105"
    rows = [("10004473376.jpg", 77.38, "training"), ("9996001596.jpg", 0, "validation"), ("7.jpg", 100, "test")]
    lines = "".join(f"{name},{counts},{mos},0.5,{part}\n" for name, mos, part in rows)
    (root / "koniq10k_distributions_sets.csv").write_text(f"{header},set\n{lines}")
    for name, *_ in rows:
        image(root / "1024x768" / name, 0, 1024, 768)
        image(root / "512x384" / name, 0, 512, 384)


def clive(root: Path) -> None:
    names = ["t1.bmp", "t2.bmp", "3.bmp", "4.JPG", "1164.bmp"]
    (root / "Data").mkdir()
    savemat(root / "Data" / "AllImages_release.mat", {"AllImages_release": cells(names).T})
    savemat(root / "Data" / "AllMOS_release.mat", {"AllMOS_release": np.array([[50.0, 50, 0, 66.5, 100]])})
    for name in names:
        image(root / "Images" / ("trainingImages" if name[0] == "t" else "") / name)


def vclfer(root: Path) -> None:
    rows = [
        ["Image", "MOS", "std"],
        ["IMG_01_AWGN_1", 71.7, 1],
        ["IMG_01_JPG_2", 100, 1],
        ["IMG_23_BLU_6", 0, 1],
        ["mean", 5, 1],
    ]
    workbook(root / "results.xls", {"MOS": rows})  # pandas looks at the content, not the name
    for name in ("IMG_01_AWGN_1.bmp", "IMG_01_JPG_2.jpg", "IMG_23_BLU_6.bmp", "IMG_01.bmp", "IMG_23.bmp"):
        image(root / "vcl_fer" / name)


def spaq(root: Path) -> None:
    rows = [["Image name", "MOS", "Brightness"], ["00001.jpg", 48.86, 1], ["00002.jpg", 0, 1], ["11125.jpg", 100, 1]]
    workbook(root / "Annotations" / "MOS and Image attribute scores.xlsx", {"Sheet1": rows})
    for name in ("00001", "00002", "11125"):
        image(root / "TestImage" / f"{name}.jpg")


def cid2013(root: Path) -> None:
    rows = [["Source_ID", "Image set specific  MOS", "Realigned MOS"], ["IS_I_C01_D01", 1, 3.5], ["IS_I_C01_D02", 1, -10]]
    rows.append(["IS_VI_C08_D14", 1, 100])
    workbook(root / "CID2013 data - version 12112014.xlsx", {"Info": [["x"]], "CID2013 MOS": rows})
    for name in ("IS1/co1/IS_I_C01_D01", "IS1/co1/IS_I_C01_D02", "IS6/co8/IS_VI_C08_D14"):
        image(root / f"{name}.jpg")


def pipal(root: Path) -> None:
    (root / "Train_Label").mkdir()
    (root / "Train_Label" / "A0001.txt").write_text("A0001_00_00.bmp,1520.0648\nA0001_00_01.bmp,900\n")
    (root / "Train_Label" / "A0248.txt").write_text("A0248_06_26.bmp,1850")
    for name in ("Distortion_1/A0001_00_00", "Distortion_1/A0001_00_01", "Distortion_4/A0248_06_26", "Train_Ref/A0001"):
        image(root / f"{name}.bmp")


WRITERS = {f.__name__: f for f in (live, csiq, tid2013, kadid10k, koniq10k, clive, vclfer, spaq, cid2013, pipal)}
WORKBOOKS = {"csiq", "vclfer", "spaq", "cid2013"}

EXPECTED: dict[str, list[tuple[str, str, float, float]]] = {
    "csiq": [
        ("AWGN/1600.AWGN.1.png", "1600", 1.0, 0.0), ("BLUR/1600.BLUR.2.png", "1600", 0.75, 0.25),
        ("jpeg2000/woman.jpeg2000.5.png", "woman", 0.0, 1.0),
    ],
    "tid2013": [
        ("i01_01_1.bmp", "i01", 5.51429 / 9, 5.51429), ("i01_01_2.bmp", "i01", 1.0, 9.0), ("i25_24_5.bmp", "i25", 0.0, 0.0),
    ],
    "kadid10k": [
        ("I01_01_01.png", "I01", 3.57 / 4, 4.57), ("I01_01_02.png", "I01", 1.0, 5.0), ("I81_25_05.png", "I81", 0.0, 1.0),
    ],
    "koniq10k": [
        ("10004473376.jpg", "10004473376.jpg", 0.7738, 77.38), ("9996001596.jpg", "9996001596.jpg", 0.0, 0.0),
        ("7.jpg", "7.jpg", 1.0, 100.0),
    ],
    "clive": [("3.bmp", "3.bmp", 0.0, 0.0), ("4.JPG", "4.JPG", 0.665, 66.5), ("1164.bmp", "1164.bmp", 1.0, 100.0)],
    "vclfer": [
        ("IMG_01_AWGN_1.bmp", "IMG_01", 0.717, 71.7), ("IMG_01_JPG_2.jpg", "IMG_01", 1.0, 100.0),
        ("IMG_23_BLU_6.bmp", "IMG_23", 0.0, 0.0),
    ],
    "spaq": [
        ("00001.jpg", "00001.jpg", 0.4886, 48.86), ("00002.jpg", "00002.jpg", 0.0, 0.0),
        ("11125.jpg", "11125.jpg", 1.0, 100.0),
    ],
    "cid2013": [
        ("IS1/co1/IS_I_C01_D01.jpg", "IS1/co1", 13.5 / 110, 3.5), ("IS1/co1/IS_I_C01_D02.jpg", "IS1/co1", 0.0, -10.0),
        ("IS6/co8/IS_VI_C08_D14.jpg", "IS6/co8", 1.0, 100.0),
    ],
    "pipal": [
        ("A0001_00_00.bmp", "A0001", 620.0648 / 950, 1520.0648), ("A0001_00_01.bmp", "A0001", 0.0, 900.0),
        ("A0248_06_26.bmp", "A0248", 1.0, 1850.0),
    ],
}  # fmt: skip
"""Image, reference, label and raw label of every image of the layouts above; LIVE's are in its own test."""

READERS: dict[str, type[PublishedSet]] = {
    reader.name: reader for reader in (LIVE, CSIQ, TID2013, KADID10k, KonIQ10k, CLIVE, VCLFER, SPAQ, CID2013, PIPAL)
}
assert set(READERS) == {name for name, reader in DATASETS.items() if issubclass(reader, PublishedSet)}
