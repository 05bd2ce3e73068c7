"""Examples of attacked images: for each row with kept images, the one that moved most and the one that moved least."""

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
"""The factor by which a difference image is amplified around mid-grey."""
SIDE = 256
"""Largest side in pixels of an image that is embedded in the page."""


@dataclass(frozen=True)
class Example:
    """An image before and after one attack on one row.

    Attributes:
        moved_most: whether its quality moved most of all images of its cell; else it moved least.
        clean, adv: qualities before and after the attack.
        before, after: image files.
    """

    row: Row
    cell: CellValue
    image_id: str
    moved_most: bool
    clean: float
    adv: float
    before: Path
    after: Path

    @property
    def readable(self) -> bool:
        """Whether both files are images of one size; a damaged one must not take the board with it."""
        try:
            self.pixels()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return False
        return True

    def pixels(self) -> tuple[Pixels, Pixels, Pixels]:
        """Return the clean image, the attacked image and their amplified difference, (H, W, 3) each."""
        before, after = (_read(path) for path in (self.before, self.after))
        return before, after, enlarged(before, after)


def enlarged(before: Pixels, after: Pixels) -> Pixels:
    """Return the difference of two images as an image, amplified around mid-grey."""
    return np.clip(128 + GAIN * (after.astype(int) - before), 0, 255).astype(np.uint8)


def examples(records: Records, rows: Sequence[Row]) -> tuple[Example, ...]:
    """Return examples of rows, each under the strongest attack among those whose images were kept.

    The examples stay the same when kept images that are not among them are deleted.
    """
    return tuple(example for row in rows for example in _row_examples(records, row))


def _row_examples(records: Records, row: Row) -> list[Example]:
    for cell in sorted((c for c in row.cells if c.crafting and not c.control), key=lambda c: c.srocc[0]):
        record = records.read(cell.cell_id)
        assert record is not None  # the row is made of it
        indices = {name: index for index, name in enumerate(records.images(cell.cell_id).image_id)}
        candidates = []  # (|shift|, number, before, after), so that the smallest and the largest are the examples
        for number, image_id in enumerate(row.image_ids):
            before = records.kept_images.original(record["dataset"]["fingerprint"], image_id)
            after = records.kept_images.attacked(cell.crafting, indices[image_id])
            if before.is_file() and after.is_file():
                candidates.append((abs(float(cell.adv[number] - cell.clean[number])), number, before, after))
        if candidates:
            least, most = min(candidates), max(candidates)
            chosen = [most, least] if most[1] != least[1] else [most]
            shown = [_example(row, cell, candidate, candidate is most) for candidate in chosen]
            return [example for example in shown if example.readable]
    return []


def _example(row: Row, cell: CellValue, candidate: tuple[float, int, Path, Path], moved_most: bool) -> Example:
    _, number, before, after = candidate
    clean, adv = float(cell.clean[number]), float(cell.adv[number])
    return Example(row, cell, row.image_ids[number], moved_most, clean, adv, before, after)


def data_uri(pixels: Pixels) -> str:
    """Encode an image as a data URI: a JPEG of at most `SIDE` pixels."""
    with Image.fromarray(pixels) as image:
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "jpeg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def prune(records: Records, shown: Iterable[Example]) -> int:
    """Delete kept images that are not among some examples, and return the number of deleted files."""
    wanted = {path for example in shown for path in (example.before, example.after)}
    unwanted = [path for path in records.kept_images.folder.glob("*/*.png") if path not in wanted]
    for path in unwanted:
        path.unlink()
    return len(unwanted)


def _read(path: Path) -> Pixels:
    with Image.open(path) as opened:
        return np.array(opened.convert("RGB"))
