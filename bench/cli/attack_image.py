"""`iqarena attack`: attack one image and write it before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from PIL import Image

from iqarena.bench.cells import SIZES, SYMBOLS, Cell, expand
from iqarena.bench.datasets.base import ImageDataset, Sample, read_image
from iqarena.bench.datasets.demo.dataset import pixel_hash
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.inference.isolation import OutOfMemory
from iqarena.bench.leaderboard.examples import GAIN, enlarged
from iqarena.bench.leaderboard.plots.style import styled
from iqarena.bench.registry import ATTACKS
from iqarena.bench.results.files import Pixels, as_array
from iqarena.bench.suite import validated


class OneImage(ImageDataset):
    """A data set of one image file, without a label."""

    name = "image"
    label_kind = "none"

    def __init__(self, path: Path) -> None:
        self._pixels = read_image(path)
        self.samples = [Sample(path.stem, path.stem)]
        self.fingerprint = pixel_hash(self._pixels.permute(1, 2, 0).numpy())

    @classmethod
    def open(cls, root: Path | None) -> OneImage:
        if root is None:
            raise UserError("name the image's file")
        return cls(root)

    def image(self, index: int) -> torch.Tensor:
        return self._pixels


class Attacked(NamedTuple):
    """The result of one cell on one image; `row` is its row of images.csv."""

    evaluator: Evaluator
    cell: Cell
    status: str
    row: Any
    before: torch.Tensor
    after: torch.Tensor


def attacked(
    image: Path,
    model: str,
    defense: str,
    attack: str,
    *,
    eps: float | str,
    seed: int,
    norm: str = "linf",
    objective: str | None = None,
) -> Attacked:
    """Attack one image adaptively.

    Raises:
        UserError: for errors that the caller can fix, and where the attack returns no image or the score is NaN.
    """
    suite = validated(
        {
            "models": [model],
            "defenses": [defense],
            "attacks": [{"attack": attack, "objectives": objective and [objective]}],
            "threats": [{"norm": norm, "eps": eps}],
            "settings": ["adaptive"],
            "seed": seed,
            "dataset": "image",
        },
        lambda loc: "the command line",
    )
    evaluator = Evaluator(OneImage(image), None, 1)
    cell = expand(suite)[0]
    try:
        record, rows = evaluator.run(cell, evaluator.ids.cell_id(cell))
    except CannotRun as reason:
        raise UserError(str(reason)) from None
    except OutOfMemory as error:  # a batch of one image cannot be halved
        raise UserError(f"out of memory: {error}") from None
    status = str(record["status"])
    if status not in ("ok", "violation"):
        raise UserError(f"the attack ended with status {status}: {'; '.join(record['errors']) or 'a score is NaN'}")
    return Attacked(evaluator, cell, status, rows.iloc[0], evaluator.images[0], evaluator.attacked.crafted(cell).pixels[0])


def attack_image(
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
    """Attack one image adaptively; write the clean image, the attacked one, their difference and a sheet of the three.

    Args:
        image: an 8-bit RGB file.
        model, defense, attack: specs.
        objective, norm: None for the usual one of the attack.
        eps: budget of the threat model, a number or fraction; None for the usual one of the norm.
        seed: seed of the attack.
        out: output folder.

    Returns:
        Scores, distances, costs and the files written.

    Raises:
        UserError: for errors that the caller can fix.
    """
    norm = norm or ATTACKS.build(attack).norms[0]
    eps = eps or SIZES.get(norm, "2/255")
    result = attacked(image, model, defense, attack, objective=objective, norm=norm, eps=eps, seed=seed)
    cell, row = result.cell, result.row
    before, after = as_array(result.before), as_array(result.after)
    difference = enlarged(before, after)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = {}
        for name, pixels in (("before", before), ("after", after), ("difference", difference)):
            files[name] = out / f"{image.stem}-{name}.png"
            Image.fromarray(pixels).save(files[name])
        sheet = out / f"{image.stem}-sheet.png"
        titles = [f"before: quality {row.clean_quality:.3f}", f"after: quality {row.adv_quality:.3f}", f"difference ×{GAIN}"]
        title = f"{cell.attack} · {cell.objective} · {SYMBOLS[cell.norm]} ≤ {eps} on {model}" + (
            "" if defense == "none" else f" + {defense}"
        )
        with styled():
            _sheet([before, after, difference], titles, title).savefig(sheet, dpi=110)
    except OSError as error:
        raise UserError(f"{out}: cannot be written to ({error.strerror}); choose another --out") from None
    return {
        "status": result.status,
        "quality before": round(float(row.clean_quality), 4),
        "quality after": round(float(row.adv_quality), 4),
        "linf (levels of 255)": round(float(row.linf) * 255, 3),
        "l2": round(float(row.l2), 4),
        "share of pixels changed": round(float(row.l0), 4),
        "psnr (dB)": round(float(row.psnr), 2),
        "ssim": round(float(row.ssim), 4),
        "forwards / backwards": f"{int(row.forwards)} / {int(row.backwards)}",
        "images": ", ".join(str(path) for path in (*files.values(), sheet)),
    }


def _sheet(images: list[Pixels], titles: list[str], title: str) -> Figure:
    height, width = images[0].shape[:2]
    figure = Figure(figsize=(10, 9.8 * height / (3 * width) + 0.65), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, pixels, panel_title in zip(figure.subplots(1, 3), images, titles, strict=True):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(panel_title, fontsize=10)
        axes.set_axis_off()
    return figure
