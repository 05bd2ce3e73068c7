"""`iqarena attack`: one picture before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from attacks.threat import Norm
from bench.arena import Arena
from bench.config import validated
from bench.datasets.base import ImageDataset, Sample, read_picture
from bench.datasets.demo import pixel_hash
from bench.errors import CannotRun, UserError
from bench.plan import expand
from bench.registry import ATTACKS

GAIN = 16
"""How many times the difference is enlarged, around mid-grey."""


SIZES: dict[str, str] = {"linf": "2/255", "l2": "1", "l0": "0.001", "patch": "0.02", "ssim": "0.05"}
SYMBOLS: dict[Norm, str] = {"linf": "ℓ∞", "l2": "ℓ2", "l0": "share of pixels", "patch": "share of area", "ssim": "1 − SSIM"}


class OnePicture(ImageDataset):
    """A data set of one picture file, without a label."""

    name = "picture"
    label_kind = "none"

    def __init__(self, path: Path) -> None:
        self._pixels = read_picture(path)
        self.samples = [Sample(path.stem, path.stem)]
        self.fingerprint = pixel_hash(self._pixels.permute(1, 2, 0).numpy())

    @classmethod
    def open(cls, root: Path | None) -> OnePicture:
        if root is None:
            raise UserError("name the picture's file")
        return cls(root)

    def picture(self, index: int) -> torch.Tensor:
        return self._pixels


def attack_picture(
    image: Path,
    model: str,
    defense: str,
    attack: str,
    objective: str | None,
    norm: str | None,
    eps: str | None,
    seed: int,
    out: Path,
) -> dict[str, Any]:
    """Attack one picture adaptively; write before, after, difference and a sheet of the three.

    Args:
        image: an 8-bit RGB file.
        model, defense, attack: specs.
        objective, norm: or None for the attack's usual one.
        eps: size of the threat model, number or fraction, or None for one that is usual with the norm.
        seed: of the attack.
        out: folder.

    Returns:
        Scores, distances, costs and the files written.

    Raises:
        UserError: for anything that the caller can mend.
    """
    norm = norm or ATTACKS.build(attack).norms[0]
    eps = eps or SIZES.get(norm, "2/255")
    suite = validated(
        {"models": [model], "defenses": [defense], "attacks": [{"attack": attack, "objectives": objective and [objective]}],
         "threats": [{"norm": norm, "eps": eps}], "settings": ["adaptive"], "seed": seed, "dataset": "picture"},
        lambda loc: "the command line",
    )  # fmt: skip
    arena = Arena(OnePicture(image), None, 1)
    cell = expand(suite)[0]
    try:
        record, rows = arena.run(cell, arena.cell_id(cell))
    except CannotRun as reason:
        raise UserError(str(reason)) from None
    row = rows.iloc[0]
    if record["status"] not in ("ok", "violation"):
        raise UserError(
            f"the attack ended with status {record['status']}: {'; '.join(record['errors']) or 'a score is NaN'}"
        )
    before = arena.pictures[0]
    after = arena.crafted(cell).pixels[0]
    difference = ((after.float() - before.float()) * GAIN + 127.5).clamp(0, 255).round().to(torch.uint8)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = {}
        for name, pixels in (("before", before), ("after", after), ("difference", difference)):
            files[name] = out / f"{image.stem}-{name}.png"
            Image.fromarray(_array(pixels)).save(files[name])
        sheet = out / f"{image.stem}-sheet.png"
        titles = [f"before: quality {row.clean_quality:.3f}", f"after: quality {row.adv_quality:.3f}", f"difference ×{GAIN}"]
        title = f"{cell.attack} · {cell.objective} · {SYMBOLS[cell.norm]} ≤ {eps} on {model}" + (
            "" if defense == "none" else f" + {defense}"
        )
        _sheet([before, after, difference], titles, title).savefig(sheet, dpi=110)
    except OSError as error:
        raise UserError(f"{out}: cannot be written to ({error.strerror}); choose another --out") from None
    return {
        "status": record["status"],
        "quality before": round(float(row.clean_quality), 4),
        "quality after": round(float(row.adv_quality), 4),
        "linf (levels of 255)": round(float(row.linf) * 255, 3),
        "l2": round(float(row.l2), 4),
        "share of pixels changed": round(float(row.l0), 4),
        "psnr (dB)": round(float(row.psnr), 2),
        "ssim": round(float(row.ssim), 4),
        "forwards / backwards": f"{int(row.forwards)} / {int(row.backwards)}",
        "pictures": ", ".join(str(path) for path in (*files.values(), sheet)),
    }


def _array(pixels: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _sheet(pictures: list[torch.Tensor], titles: list[str], title: str) -> Figure:
    height, width = pictures[0].shape[1:]
    figure = Figure(figsize=(10, 9.8 * height / (3 * width) + 0.65), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11)
    for axes, pixels, words in zip(figure.subplots(1, 3), pictures, titles, strict=True):
        axes.imshow(_array(pixels), interpolation="nearest")
        axes.set_title(words, fontsize=10)
        axes.set_axis_off()
    return figure
