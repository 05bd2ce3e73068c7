"""Files that are whole or not there: synced writes, folders that are replaced at once, and the images that a run keeps."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from iqarena.bench.errors import UserError

Pixels = NDArray[np.uint8]
"""(H, W, 3)."""

_HASHES = "sha256.txt"
"""In a folder of attacked images: a line for each, the hash of its pixels."""


def as_array(image: torch.Tensor) -> Pixels:
    """Return an image (3, H, W) uint8 as (H, W, 3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


class KeptImages:
    """The images of a results folder, as 8-bit PNG files.

    Attacked images lie in ``images/<crafting>/``, once for all cells that share them, and clean ones in
    ``images/originals-<fingerprint>/``.

    Args:
        folder: ``images/`` of the results folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def attacked(self, crafting: str, index: int) -> Path:
        """Return the path of the attacked image of a row of images.csv, kept or not."""
        return self.folder / crafting / f"{index:05d}.png"

    def original(self, fingerprint: str, image_id: str) -> Path:
        """Return the path of a clean image of a data set, kept or not."""
        name = hashlib.sha256(image_id.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        folder = re.sub(r"[^\w-]", "_", fingerprint[:16])
        return self.folder / f"originals-{folder}" / f"{name}.png"

    def keep(self, crafting: str, images: Iterable[torch.Tensor]) -> list[str]:
        """Store attacked images (3, H, W) uint8, unless a cell that shares them has; return the sha256 of their pixels.

        Raises:
            OSError: where the disk is full or read-only.
        """
        folder, arrays = self.folder / crafting, [as_array(image) for image in images]
        hashes = [_sha256(pixels) for pixels in arrays]
        listed = "\n".join([*hashes, ""]).encode()
        with suppress(OSError, UserError):  # they are not there, or not all: some were pruned, or are damaged
            if (folder / _HASHES).read_bytes() == listed:
                for index, sha256 in enumerate(hashes):
                    _load(self.attacked(crafting, index), sha256)
                return hashes
        self.folder.mkdir(exist_ok=True)
        with replaced_at_once(folder) as part:
            for index, pixels in enumerate(arrays):
                _write_png(part / self.attacked(crafting, index).name, pixels)
            write_synced(part / _HASHES, listed)
        return hashes

    def keep_originals(self, fingerprint: str, images: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Store clean images (3, H, W) uint8 by their image_id, unless they are there.

        Raises:
            UserError: where the disk is full or read-only.
        """
        try:
            for image_id, image in images:
                path = self.original(fingerprint, image_id)
                if not path.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part = path.with_suffix(f".{os.getpid()}.part")
                    _write_png(part, as_array(image))
                    part.replace(path)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror}); make room or choose another --out"
            ) from None

    def load(self, crafting: str, hashes: Sequence[str]) -> list[torch.Tensor]:
        """Return attacked images (3, H, W) uint8 in the order of the rows of images.csv.

        Args:
            crafting: hash of what they depend on.
            hashes: sha256 of the pixels of each.

        Raises:
            UserError: where one is missing or has other pixels than when it was stored.
        """
        arrays = [_load(self.attacked(crafting, index), sha256) for index, sha256 in enumerate(hashes)]
        return [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in arrays]

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of runs that were killed, and put back what they had not replaced yet."""
        remove_leftovers(self.folder)
        for part in self.folder.glob("originals-*/*.part"):
            part.unlink(missing_ok=True)


def _write_png(path: Path, pixels: Pixels) -> None:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "png", compress_level=1)  # three times as fast, a tenth larger
    write_synced(path, encoded.getvalue())


def _load(path: Path, sha256: str) -> Pixels:
    try:
        with Image.open(path) as opened:
            pixels = np.array(opened)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError for a broken chunk
        raise UserError(f"{path}: cannot be read ({error}); run its cell again with --fresh --keep-images") from None
    if _sha256(pixels) != sha256:
        raise UserError(f"{path}: not the pixels of its record; run its cell again with --fresh --keep-images")
    return pixels


def _sha256(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


@contextmanager
def replaced_at_once(folder: Path) -> Iterator[Path]:
    """Provide a temporary folder that replaces a folder when the context ends well; else the old one stays."""
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        sync_folder(part)
        replaced = folder.exists()
        if replaced:
            folder.rename(old)
        part.rename(folder)
        if replaced:
            sync_folder(folder.parent)  # before the old one goes: a power cut may cost the last cells, never half of one
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        _put_back(old, folder)


def remove_leftovers(parent: Path) -> None:
    """Remove what killed processes left of `replaced_at_once` in a folder; what they had not replaced yet comes back."""
    for old in parent.glob(".*.old"):
        _put_back(old, parent / old.name[1:].rsplit(".", 2)[0])
    for part in parent.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
    """Put a folder that was set aside back where its replacement has not come, else remove it."""
    if not folder.exists():
        with suppress(OSError):  # where it cannot be put back, it stays for the next run
            old.rename(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is the old or the new one, and never half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write_synced(part, content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
