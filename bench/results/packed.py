"""The packed form of a results folder: a few files in place of two for every cell.

``packed/records.json.xz`` is a JSON array of all records, each with the bytes of its ``record.json``.
``packed/images-<track>.csv.xz`` has the lines of every ``images.csv`` of a track behind the cell's id, as pandas reads them.
Nothing is parsed and written anew, so that unpacking gives back the same bytes.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from iqarena.bench.errors import UserError
from iqarena.bench.results.files import replace_synced, replaced_at_once, sync_folder, write_synced
from iqarena.bench.results.formatting import format_eps

RECORDS = "records.json.xz"
_BETWEEN = b",\n"
"""Between two records; no line of a record is a lone comma, and all but its first and its last begin with a space."""
_ID = re.compile(rb"[\w.-]+")


class CellFiles(NamedTuple):
    """The bytes of a cell's two files."""

    record: bytes
    images: bytes


class PackedCells:
    """The cells of a packed results folder; they are read when the first of them is asked for.

    Args:
        folder: ``packed/`` of the results folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state: object = None
        self._cells: dict[str, CellFiles] = {}

    def state(self) -> object:
        """Return what changes when a file is packed anew; None where nothing is packed."""
        try:
            stats = [path.stat() for path in sorted(self.folder.glob("*.xz"))]
        except OSError:
            return None
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats] or None

    def cells(self) -> dict[str, CellFiles]:
        """Return the files of every cell by its id.

        Raises:
            UserError: where a packed file is damaged.
        """
        state = self.state()
        if state != self._state:
            self._cells = dict(self._read()) if state is not None else {}
            self._state = state
        return self._cells

    def _read(self) -> Iterator[tuple[str, CellFiles]]:
        images: dict[str, bytes] = {}
        for path in sorted(self.folder.glob("images-*.csv.xz")):
            header, rows = _rows(_unzipped(path))
            for cell_id, own in rows.items():
                images[cell_id] = header + own
        path = self.folder / RECORDS
        damaged = UserError(f"{path}: damaged or missing; take {self.folder} from where it came, or delete it")
        text = _unzipped(path) if path.is_file() else b""
        if not (text.startswith(b"[\n") and text.endswith(b"]\n")):
            raise damaged
        for record in _split_records(text):
            try:
                cell_id = str(json.loads(record)["cell_id"])
                yield cell_id, CellFiles(record, images[cell_id])
            except (ValueError, KeyError, TypeError):
                raise damaged from None

    def write(self, cells: dict[str, CellFiles]) -> None:
        """Pack these cells in place of those that were packed.

        Raises:
            UserError: where a cell's files are not as a run writes them.
            OSError: where the disk is full or read-only.
        """
        tables: dict[str, list[bytes]] = {}
        for cell_id, files in sorted(cells.items()):
            header, *lines = _logical_lines(files.images)
            prefix = cell_id.encode()
            if not _ID.fullmatch(prefix) or not files.images.endswith(b"\n"):
                raise UserError(f"cell {cell_id}: its images.csv cannot be packed; run the cell again")
            table = tables.setdefault(_track(json.loads(files.record)), [b"cell_id," + header])
            if table[0] != b"cell_id," + header:
                raise UserError(f"cell {cell_id}: its images.csv has other columns than those of its track; run it again")
            table += [prefix + b"," + line for line in lines]
        self.folder.mkdir(parents=True, exist_ok=True)
        names = {f"images-{track}.csv.xz" for track in tables}
        for track, table in tables.items():
            replace_synced(self.folder / f"images-{track}.csv.xz", _zipped(b"".join(table)))
        records = _BETWEEN.join(cells[cell_id].record for cell_id in sorted(cells))
        replace_synced(self.folder / RECORDS, _zipped(b"[\n" + records + b"]\n"))
        for path in self.folder.glob("images-*.csv.xz"):
            if path.name not in names:
                path.unlink()
        sync_folder(self.folder)
        self._state = None

    def unpack(self, cells_folder: Path) -> int:
        """Write every packed cell into a folder of its own, unless it is there, and remove the packed files.

        Returns:
            The number of cells.

        Raises:
            OSError: where the disk is full or read-only.
        """
        cells = self.cells()
        for cell_id, files in cells.items():
            folder = cells_folder / cell_id
            if not folder.exists():
                with replaced_at_once(folder) as part:
                    write_synced(part / "images.csv", files.images)
                    write_synced(part / "record.json", files.record)
        sync_folder(cells_folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        return len(cells)


def _track(record: dict[str, Any]) -> str:
    cell = record["cell"]
    name = f"{cell['dataset']} {cell['norm']} {format_eps(cell['norm'], float(cell['eps']))}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:120]  # a file name has 255 bytes at most


def _logical_lines(text: bytes) -> Iterator[bytes]:
    """Yield the lines of a CSV file with their ends; a line end inside quotes is part of its line."""
    line = b""
    for part in re.findall(rb"[^\n]*\n|[^\n]+", text):
        line += part
        if line.count(b'"') % 2 == 0:
            yield line
            line = b""
    if line:
        yield line


def _rows(text: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Return the header without the cell's id, and the lines of each cell."""
    lines = _logical_lines(text)
    header = next(lines, b"").partition(b",")[2]
    rows: dict[bytes, list[bytes]] = {}
    for line in lines:
        cell_id, _, rest = line.partition(b",")
        rows.setdefault(cell_id, []).append(rest)
    return header, {cell_id.decode("utf-8", "replace"): b"".join(own) for cell_id, own in rows.items()}


def _split_records(text: bytes) -> list[bytes]:
    inside = text.removeprefix(b"[\n").removesuffix(b"]\n")
    return [record + b"}\n" for record in inside.removesuffix(b"}\n").split(b"}\n" + _BETWEEN)] if inside else []


def _zipped(content: bytes) -> bytes:
    return lzma.compress(content)  # half of what gzip leaves, whose window is shorter than a few records


def _unzipped(path: Path) -> bytes:
    try:
        return lzma.decompress(path.read_bytes())
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read ({error}); take {path.parent} from where it came, or delete it") from None
