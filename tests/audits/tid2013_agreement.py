"""Agreement of `tid2013-reconstructed` with TID2013: the table of docs/tid2013-reconstructed.md.

    python -m tests.audits.tid2013_agreement ROOT [--metrics FOLDER] [--keep FILE]

prints, for every distortion type, the SROCC of PSNR, SSIM and FSIM with people's scores, over the images made here and
over those that were rated. FSIM needs the extra `labels` (piq) and is left out without it. All three compare luminance
alone, as whole numbers from 16 to 235, as TID2013 did.

The rated images are known through the measures that TID2013 1.0 ships beside them, one line an image. With
``--metrics``, the release's folder metrics_values, the columns *rated* are computed from it; without, they are the stored
results of that computation in `RATED`.
"""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from rich.progress import track
from scipy.stats import spearmanr
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from iqarena.bench.datasets.decoding import each
from iqarena.bench.datasets.tid2013_reconstructed.dataset import TID2013Reconstructed
from iqarena.bench.datasets.tid2013_reconstructed.distortions import DISTORTIONS, Image, Reals

MEASURES = ("PSNR", "SSIM", "FSIM")

UNSEEN = 18
"""The type that leaves the luminance, and so all three measures, unchanged."""

RATED: dict[str, tuple[float, float, float]] = {
    "1": (0.944, 0.886, 0.906), "2": (0.899, 0.797, 0.827), "3": (0.935, 0.893, 0.888), "5": (0.922, 0.866, 0.898),
    "6": (0.894, 0.813, 0.805), "7": (0.907, 0.917, 0.906), "8": (0.967, 0.967, 0.961), "10": (0.919, 0.933, 0.931),
    "11": (0.891, 0.902, 0.959), "16": (0.763, 0.789, 0.730), "17": (0.432, 0.449, 0.467), "19": (0.910, 0.816, 0.863),
    "22": (0.933, 0.813, 0.897), "23": (0.696, 0.588, 0.525), "all": (0.660, 0.787, 0.879),
}  # fmt: skip
"""SROCC of PSNR, SSIM and FSIM over the images that were rated, of the same references, types and levels, by type. From
the files of TID2013 1.0; of types 7, 8, 10, 16 and 17, whose images are made here as they were, the measures were taken
from here and rounded to the files' four decimals, once all 150 of I01 and I13 had come out as in the files."""


class Measures:
    """Callable that computes PSNR, SSIM and FSIM of one image; FSIM is NaN without piq."""

    def __init__(self, dataset: TID2013Reconstructed) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> tuple[float, float, float]:
        torch.set_num_threads(1)
        clean = luminance(self.dataset.reference(self.dataset.samples[index].reference_id))
        distorted = luminance(self.dataset.image(index).permute(1, 2, 0).numpy())
        return psnr(clean, distorted), ssim(clean, distorted), fsim(clean, distorted)


def luminance(image: Image) -> Reals:
    values: Reals = np.rint(rgb2ycbcr(image)[..., 0])
    return values


def psnr(one: Reals, other: Reals) -> float:
    error = float(((one - other) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(one: Reals, other: Reals) -> float:
    """Compute SSIM after Wang et al. 2004, where the 11×11 window lies inside the image, at full size."""
    _, values = structural_similarity(
        one, other, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(values[5:-5, 5:-5].mean())


def fsim(one: Reals, other: Reals) -> float:
    if find_spec("piq") is None:
        return math.nan
    import piq

    pair = [torch.from_numpy(values).float().expand(1, 3, -1, -1) for values in (one, other)]
    return float(piq.fsim(*pair, data_range=255.0, chromatic=False))


def shipped(folder: Path, image_ids: list[str]) -> pd.DataFrame:
    """Read TID2013's own measures of these images: lines go through references, types and levels, each in order."""
    lines = [24 * 5 * (int(i[1:3]) - 1) + 5 * (int(i[4:6]) - 1) + int(i[7]) - 1 for i in image_ids]
    return pd.DataFrame({name: np.loadtxt(folder / f"{name}.txt")[lines] for name in MEASURES}, index=image_ids)


def sroccs(table: pd.DataFrame, scores: Reals) -> list[float]:
    return [float(spearmanr(table[name], scores).statistic) for name in MEASURES]


def main(
    root: Annotated[Path, typer.Argument(help="holds Kodak's images and TID2013's mos_with_names.txt")],
    metrics: Annotated[Path | None, typer.Option(help="TID2013's folder metrics_values")] = None,
    keep: Annotated[Path | None, typer.Option(help="CSV for the measures of every image; read where it is there")] = None,
) -> None:
    """Compute the measures and print the table."""
    dataset = TID2013Reconstructed.open(root)
    ids = [sample.image_id for sample in dataset.samples]
    if keep and keep.is_file():
        computed = pd.read_csv(keep, index_col="image_id").loc[ids]
    else:
        measures = each(Measures(dataset), len(dataset), os.cpu_count() or 1)
        rows = [list(row) for row in track(measures, "measuring", total=len(dataset))]
        computed = pd.DataFrame(rows, columns=list(MEASURES), index=ids)
    if keep:
        computed.to_csv(keep, index_label="image_id")
    published = shipped(metrics, ids) if metrics else None
    scores, kinds = np.array([sample.mos for sample in dataset.samples]), np.array(dataset.kinds)
    print("| | type | images |" + "".join(f" {name} | rated |" for name in MEASURES))
    print("|-:|-|-:|" + "-:|-:|" * len(MEASURES))
    lines = [(str(kind.number), kind.name, kinds == kind.number) for kind in DISTORTIONS if kind.number != UNSEEN]
    lines.append(("", f"all but {UNSEEN}", kinds != UNSEEN))
    for number, name, chosen in lines:
        rated = RATED[number or "all"] if published is None else sroccs(published[chosen], scores[chosen])
        pairs = zip(sroccs(computed[chosen], scores[chosen]), rated, strict=True)
        print(f"| {number} | {name} | {chosen.sum()} |" + "".join(f" {one:.3f} | {other:.3f} |" for one, other in pairs))


if __name__ == "__main__":
    typer.run(main)
