"""Submission bundles: zip files that are written whole, and read as if an enemy had packed them.

``manifest.json`` names every other member with its size and sha256. What it does not name, or what is not as it says, is
refused, and so is all that a bundle has no use for: folders, links, paths that lead elsewhere, pickles, images of another
size than the clean ones. Nothing is unpacked to a path that a bundle chose.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iqarena.bench.errors import UserError, first_message, printable

MANIFEST = "manifest.json"
SUFFIXES = (".csv", ".json", ".png", ".py", ".safetensors", ".yaml")
"""Of members. None of these kinds can run when it is read."""
MOST_MEMBERS = 60_000
"""Two for each image of the largest published set, and more."""
MOST_BYTES = {"manifest": 2**24, "member": 2**29, "whole": 2**32}
"""Unpacked."""
MOST_SHRUNK = 100
"""Times that a member may be larger unpacked than packed, beyond its first MiB; text of records shrinks to a tenth."""

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_PNG = b"\x89PNG\r\n\x1a\n"
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".joblib", ".bin")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Strict):
    """One file of a bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class CellClaim(_Strict):
    """What is claimed of one cell.

    Attributes:
        cell: the fields of `iqarena.bench.cells.Cell`.
        cell_id: the folder of its files, ``records/ID`` and ``images/ID``.
        n_images: images of the data set that it was run on, as ``--limit`` chooses them.
        fingerprint: of the data set.
        measures: by their names in summary.csv.
        forwards, backwards: passes an image.
    """

    cell: dict[str, Any]
    cell_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    n_images: Annotated[int, Field(ge=2, le=10**6)]
    fingerprint: Annotated[str, Field(max_length=200)]
    measures: dict[str, Finite | None]
    forwards: Finite | None = None
    backwards: Finite | None = None


class Plugin(_Strict):
    """What is brought along: for an attack its class, for a defense its recipe, the class being of the project."""

    file: Annotated[str, Field(max_length=200)]
    made: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)] = "_"
    recipe: Annotated[str, Field(max_length=500)] = ""
    model: Annotated[str, Field(max_length=500)] = ""


class Manifest(_Strict):
    """What a bundle says of itself."""

    format: Literal[1] = 1
    kind: Literal["attack", "defense", "images"]
    name: Annotated[str, Field(pattern=r"^[\w:.,=+\[\]/ -]+$", max_length=300)]
    versions: dict[str, str]
    claims: Annotated[list[CellClaim], Field(min_length=1, max_length=10_000)]
    plugin: Plugin | None = None
    members: dict[str, Member]


def write(path: Path, said: Mapping[str, Any], members: Mapping[str, bytes]) -> Manifest:
    """Pack a bundle; the same content gives the same bytes.

    Args:
        path: of the zip file, which is there when it is whole.
        said: the fields of the manifest but `members`.
        members: by their paths in the bundle.

    Raises:
        UserError: where it cannot be written.
    """
    listed = {name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in sorted(members.items())}
    if odd := next((name for name in listed if not _PATH.fullmatch(name)), None):
        raise UserError(f"{odd}: its name will not do in a bundle; use letters, digits and ._+-")
    try:
        manifest = Manifest.model_validate({**said, "members": listed})
    except ValidationError as error:
        raise UserError(f"{path}: cannot be made: {': '.join(first_message(error))}") from None
    if not path.name:
        raise UserError(f"{str(path)!r}: no name of a file; choose another --out")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w") as packed:
            for name, content in [(MANIFEST, manifest.model_dump_json(indent=1).encode()), *sorted(members.items())]:
                entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                kept = name.endswith((".png", ".safetensors"))  # do not shrink
                packed.writestr(entry, content, zipfile.ZIP_STORED if kept else zipfile.ZIP_DEFLATED)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
    return manifest


class Bundle:
    """An open bundle whose members are those of its manifest."""

    def __init__(self, path: Path, packed: zipfile.ZipFile) -> None:
        self.path, self._packed = path, packed
        self._entries = _entries(path, packed)
        self.manifest = self._manifest()
        named, there = set(self.manifest.members), set(self._entries) - {MANIFEST}
        if missing := sorted(named - there):
            raise UserError(f"{path}: {printable(missing[0])} is in the manifest and not in the bundle")
        if extra := sorted(there - named):
            raise UserError(f"{path}: {extra[0]} is in the bundle and not in the manifest")
        for name in named:
            self.read(name)

    def names(self, folder: str) -> list[str]:
        """The members in a folder, sorted."""
        return sorted(name for name in self.manifest.members if name.startswith(folder + "/"))

    def read(self, name: str) -> bytes:
        """A member's content, which is what the manifest says.

        Raises:
            UserError: where it is not, or where there is no such member.
        """
        said = self.manifest.members.get(name)
        if said is None:
            raise UserError(f"{self.path}: {name} is missing")
        content = self._unpacked(name, said.bytes)
        if len(content) != said.bytes:
            raise UserError(f"{self.path}: {name} is not of the {said.bytes} bytes that the manifest says")
        if _sha256(content) != said.sha256:
            raise UserError(f"{self.path}: {name} is not what the manifest says; its sha256 is another one")
        if content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")):
            raise UserError(f"{self.path}: {name} is a pickle or an archive, whatever it is called")
        return content

    def text(self, name: str) -> str:
        """A member as text."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: {name} is not UTF-8") from None

    def image(self, name: str, height: int, width: int) -> torch.Tensor:
        """A member as an image (3, height, width) uint8; see `decoded`."""
        return decoded(self.read(name), f"{self.path}: {name}", height, width)

    def _manifest(self) -> Manifest:
        if MANIFEST not in self._entries:
            raise UserError(f"{self.path}: no submission bundle; it has no {MANIFEST}")
        content = self._unpacked(MANIFEST, MOST_BYTES["manifest"])
        if len(content) > MOST_BYTES["manifest"]:
            raise UserError(f"{self.path}: {MANIFEST} is larger than {MOST_BYTES['manifest'] >> 20} MiB")
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            where, words = first_message(error)
            raise UserError(f"{self.path}: {MANIFEST}: {printable(where) or 'it'}: {printable(words)}") from None

    def _unpacked(self, name: str, most: int) -> bytes:
        """At most a byte more than `most`."""
        try:
            with self._packed.open(self._entries[name]) as file:
                return file.read(most + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.path}: {name} is damaged ({printable(str(error))})") from None


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """A bundle, looked at from end to end.

    Raises:
        UserError: where there is anything in it that must not be, in one line.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        packed = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: not a zip file ({error})") from None
    with packed:
        yield Bundle(path, packed)


def _entries(path: Path, packed: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by name, from the zip's own list; nothing is unpacked for this."""
    listed, size = packed.infolist(), path.stat().st_size
    if len(listed) > MOST_MEMBERS:
        raise UserError(f"{path}: has {len(listed):,} members; at most {MOST_MEMBERS:,} are looked at")
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in listed:
        if reason := _reason(entry):
            raise UserError(f"{path}: {entry.orig_filename!r} {reason}")
        if entry.filename.lower() in found:
            raise UserError(f"{path}: {entry.filename!r} is there twice")
        found[entry.filename.lower()] = entry
    packed_bytes, unpacked = sum(e.compress_size for e in listed), sum(e.file_size for e in listed)
    if packed_bytes > size:
        raise UserError(f"{path}: a zip bomb: its members overlap")
    if unpacked > MOST_BYTES["whole"]:
        raise UserError(f"{path}: unpacks to {unpacked >> 20:,} MiB; at most {MOST_BYTES['whole'] >> 20:,} are looked at")
    return {entry.filename: entry for entry in listed}


def _reason(entry: zipfile.ZipInfo) -> str:
    """Why a member cannot be in a bundle; empty if it can."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    suffix = PurePosixPath(entry.filename).suffix.lower()
    plain = bool(_PATH.fullmatch(entry.orig_filename)) and entry.filename == entry.orig_filename
    packed_so = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not entry.flag_bits & 1
    unpacked = f"unpacks to {entry.file_size:,} bytes"
    checks = (
        (plain, "is no plain path inside the bundle"),
        (kind in (0, stat.S_IFREG), "is a link or a device, not a file"),
        (suffix not in _PICKLES, "is a kind of file that may run code when it is read; weights come as .safetensors"),
        (suffix in SUFFIXES, f"is none of the kinds of file in a bundle: {', '.join(SUFFIXES)}"),
        (packed_so, "is encrypted, or packed in another way than by deflate"),
        (entry.file_size <= MOST_BYTES["member"], f"{unpacked}; at most {MOST_BYTES['member']:,} are looked at"),
        (entry.file_size <= 2**20 + MOST_SHRUNK * entry.compress_size, f"is a zip bomb: it {unpacked}"),
    )
    return next((reason for fine, reason in checks if not fine), "")


def decoded(content: bytes, what: str, height: int, width: int) -> torch.Tensor:
    """The image in a PNG file, (3, height, width) uint8; its size is looked at before anything is decoded.

    Args:
        content: of the file.
        what: it is called in errors.
        height, width: that it has to have, which are those of the clean image.

    Raises:
        UserError: where it is no 8-bit RGB PNG of this size.
    """
    if not content.startswith(_PNG):
        raise UserError(f"{what}: not a PNG file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a huge size is another size
            image = Image.open(io.BytesIO(content), formats=("PNG",))
        with image:
            if image.size != (width, height):
                raise UserError(f"{what}: is {image.width}×{image.height}, and the clean image {width}×{height}")
            deep = any(";16" in str(tile[3]) for tile in image.tile)
            if image.mode != "RGB" or deep or "transparency" in image.info or getattr(image, "n_frames", 1) > 1:
                raise UserError(f"{what}: not a still image in 8-bit RGB")
            pixels = np.asarray(image)
    except UserError:
        raise
    except Exception as error:  # a damaged image fails in as many ways as there are chunks in it
        raise UserError(f"{what}: not a readable PNG file ({' '.join(str(error).split())[:120]})") from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def encoded(image: torch.Tensor) -> bytes:
    """An image (3, H, W) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "png", compress_level=6)
    return buffer.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
