"""How well `tid2013-reconstructed` agrees with TID2013: the table of docs/tid2013-reconstructed.md.

    python tests/tid2013_agreement.py ROOT

prints, for every distortion type, the SROCC of PSNR, SSIM and FSIM with people's scores, over the pictures made here and
over those that were rated. FSIM needs the extra `labels` (piq) and is left out without it. All three compare luminance
alone, as whole numbers from 16 to 235, as TID2013 did.
"""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import track
from scipy.stats import spearmanr
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from bench.datasets.loading import each
from bench.datasets.tid2013_distortions import DISTORTIONS, Picture, Reals
from bench.datasets.tid2013_reconstructed import TID2013Reconstructed

SAME = (7, 8, 10, 16, 17)
"""Types whose pictures are those that were rated: all values that TID2013 publishes come out, to their last decimal."""

UNSEEN = 18
"""The type that leaves the luminance, and so all three measures, as they were."""

PUBLISHED: dict[int | str, tuple[float, float, float]] = {}
"""SROCC of PSNR, SSIM and FSIM over the pictures that were rated, of the same references, types and levels, by type: from
the measures of every picture that TID2013 1.0 ships as metrics_values/PSNR.txt, SSIM.txt and FSIM.txt."""


class Measures:
    """PSNR, SSIM and FSIM of one picture; FSIM is NaN without piq."""

    def __init__(self, dataset: TID2013Reconstructed) -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> tuple[float, float, float]:
        torch.set_num_threads(1)
        clean = luminance(self.dataset.reference(self.dataset.samples[index].reference_id))
        distorted = luminance(self.dataset.picture(index).permute(1, 2, 0).numpy())
        return psnr(clean, distorted), ssim(clean, distorted), fsim(clean, distorted)


def luminance(picture: Picture) -> Reals:
    values: Reals = np.rint(rgb2ycbcr(picture)[..., 0])
    return values


def psnr(one: Reals, other: Reals) -> float:
    error = float(((one - other) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(one: Reals, other: Reals) -> float:
    """After Wang et al. 2004, where the 11×11 window lies inside the picture, at full size."""
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


def srocc(values: Reals, scores: Reals) -> float:
    return float(spearmanr(values, scores).statistic)


def main(root: Annotated[Path, typer.Argument(help="holds Kodak's pictures and TID2013's mos_with_names.txt")]) -> None:
    """Measure and print."""
    dataset = TID2013Reconstructed.open(root)
    found = each(Measures(dataset), len(dataset), os.cpu_count() or 1)
    table = np.array([list(row) for row in track(found, "measuring", total=len(dataset))])
    scores, kinds = np.array([sample.mos for sample in dataset.samples]), np.array(dataset.kinds)
    names = ["PSNR", "SSIM", "FSIM"] if find_spec("piq") else ["PSNR", "SSIM"]
    if len(names) == 2:
        print("FSIM is left out: it needs piq, pip install 'iqarena[labels]'\n")
    print("| | type | pictures |" + "".join(f" {name} | rated |" for name in names))
    print("|-:|-|-:|" + "-:|-:|" * len(names))
    lines = [(str(kind.number), kind.name, kinds == kind.number) for kind in DISTORTIONS]
    for number, name, chosen in [*lines, ("", "all", np.ones(len(kinds), bool))]:
        cells = ""
        for column in range(len(names)):
            if number == str(UNSEEN):
                cells += " – | – |"
                continue
            here = srocc(table[chosen, column], scores[chosen])
            rated = (
                "same" if number and int(number) in SAME else f"{PUBLISHED[int(number) if number else 'all'][column]:.3f}"
            )
            cells += f" {here:.3f} | {rated} |"
        print(f"| {number} | {name} | {chosen.sum()} |{cells}")


if __name__ == "__main__":
    typer.run(main)
