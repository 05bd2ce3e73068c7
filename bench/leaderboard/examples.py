"""Attacked images to look at, of cells that kept theirs: of a row the one that moved most and the one that moved least."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from iqarena.bench.results.files import Pixels
from iqarena.bench.results.ranking import CellValue, Row
from iqarena.bench.results.store import Records

GAIN = 16
"""How many times the difference is enlarged, around mid-grey."""
SIDE = 256
"""Images on the page are no larger than that."""


@dataclass(frozen=True)
class Example:
    """One image before and after one attack on one row.

    Attributes:
        moved_most: whether it is the one of its cell that moved most; else the one that moved least.
        clean, adv: its qualities.
        before, after: files.
    """

    row: Row
    cell: CellValue
    image_id: str
    moved_most: bool
    clean: float
    adv: float
    before: Path
    after: Path

    def pixels(self) -> tuple[Pixels, Pixels, Pixels]:
        """Before, after, and their difference, enlarged, (H, W, 3)."""
        before, after = (_read(path) for path in (self.before, self.after))
        return before, after, enlarged(before, after)


def enlarged(before: Pixels, after: Pixels) -> Pixels:
    """The difference of two images."""
    return np.clip(128 + GAIN * (after.astype(int) - before), 0, 255).astype(np.uint8)


def examples(records: Records, rows: Sequence[Row]) -> tuple[Example, ...]:
    """Examples of rows, each under the attack that did the worst of those whose images were kept.

    What is shown stays the same when images that are not shown are deleted.
    """
    return tuple(example for row in rows for example in _of_row(records, row))


def _of_row(records: Records, row: Row) -> list[Example]:
    for cell in sorted((c for c in row.cells if c.crafting and not c.control), key=lambda c: c.srocc[0]):
        record = records.read(cell.cell_id)
        assert record is not None  # the row is made of it
        places = {name: place for place, name in enumerate(records.images(cell.cell_id).image_id)}
        there = []
        for number, image_id in enumerate(row.image_ids):
            before = records.original(record["dataset"]["fingerprint"], image_id)
            after = records.attacked_image(cell.crafting, places[image_id])
            if before.is_file() and after.is_file():
                there.append((abs(float(cell.adv[number] - cell.clean[number])), number, before, after))
        if there:
            least, most = min(there), max(there)
            return [_example(row, cell, one, one is most) for one in ([most, least] if most[1] != least[1] else [most])]
    return []


def _example(row: Row, cell: CellValue, found: tuple[float, int, Path, Path], moved_most: bool) -> Example:
    _, number, before, after = found
    clean, adv = float(cell.clean[number]), float(cell.adv[number])
    return Example(row, cell, row.image_ids[number], moved_most, clean, adv, before, after)


def data_uri(pixels: Pixels) -> str:
    """An image as text, small and a little lossy."""
    with Image.fromarray(pixels) as image:
        image.thumbnail((SIDE, SIDE))
        written = io.BytesIO()
        image.save(written, "jpeg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()


def prune(records: Records, shown: Iterable[Example]) -> int:
    """Delete kept images that are not among these examples; returns how many."""
    wanted = {path for example in shown for path in (example.before, example.after)}
    gone = [path for path in records.image_files.glob("*/*.png") if path not in wanted]
    for path in gone:
        path.unlink()
    return len(gone)


def _read(path: Path) -> Pixels:
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))
