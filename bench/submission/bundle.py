"""Submission bundles: zip files that are written atomically and read as untrusted input.

``manifest.json`` lists every other member with its size and sha256. Members that it does not list, or that differ from it,
are refused, and so is everything that a bundle has no use for: folders, links, paths that lead elsewhere, pickles, images of
another size than the clean ones. Nothing is unpacked to a path that a bundle chose.
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
"""Suffixes of the members of a bundle. Reading a file of any of these types runs no code."""
MAX_MEMBERS = 60_000
"""More than two for each image of the largest published set."""
MAX_BYTES = {"manifest": 2**24, "member": 2**29, "whole": 2**32}
"""Sizes after unpacking."""
MAX_RATIO = 100
"""Largest compression ratio of a member beyond its first MiB; the text of records shrinks to a tenth."""

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_PNG = b"\x89PNG\r\n\x1a\n"
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".joblib", ".bin")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Strict):
    """Size and hash of one file of a bundle."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0, le=MAX_BYTES["member"])]


class CellClaim(_Strict):
    """The claimed measures of one cell.

    Attributes:
        cell: the fields of `iqarena.bench.cells.Cell`.
        cell_id: name of the folders of its files, ``records/ID`` and ``images/ID``.
        n_images: number of images of the data set that it was run on, as ``--limit`` chooses them.
        fingerprint: fingerprint of the data set.
        measures: by their names in summary.csv.
        forwards, backwards: passes per image.
    """

    cell: dict[str, Any]
    cell_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    n_images: Annotated[int, Field(ge=2, le=10**6)]
    fingerprint: Annotated[str, Field(max_length=200)]
    measures: dict[str, Finite | None]
    forwards: Finite | None = None
    backwards: Finite | None = None


class Plugin(_Strict):
    """The submitted plugin: the file and the class of an attack, or the weights and the recipe of a defense.

    Attributes:
        file: member of the bundle.
        made: name of the attack's class.
        recipe: training recipe of the weights, a defense of this project.
        model: the model that was trained.
    """

    file: Annotated[str, Field(max_length=200)]
    made: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)] = "_"
    recipe: Annotated[str, Field(max_length=500)] = ""
    model: Annotated[str, Field(max_length=500)] = ""


class Manifest(_Strict):
    """The content of manifest.json."""

    format: Literal[1] = 1
    kind: Literal["attack", "defense", "images"]
    name: Annotated[str, Field(pattern=r"^[\w:.,=+\[\]/ -]+$", max_length=300)]
    versions: dict[str, str]
    claims: Annotated[list[CellClaim], Field(min_length=1, max_length=10_000)]
    plugin: Plugin | None = None
    members: dict[str, Member]


def write(path: Path, fields: Mapping[str, Any], members: Mapping[str, bytes]) -> Manifest:
    """Pack a bundle; the same content gives the same bytes.

    Args:
        path: path of the zip file, which only exists once it is complete.
        fields: the fields of the manifest except for `members`.
        members: contents by their paths in the bundle.

    Raises:
        UserError: where it cannot be written.
    """
    listed = {name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in sorted(members.items())}
    if odd := next((name for name in listed if not _PATH.fullmatch(name)), None):
        raise UserError(f"{odd}: its name will not do in a bundle; use letters, digits and ._+-")
    try:
        manifest = Manifest.model_validate({**fields, "members": listed})
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
                incompressible = name.endswith((".png", ".safetensors"))
                packed.writestr(entry, content, zipfile.ZIP_STORED if incompressible else zipfile.ZIP_DEFLATED)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
    return manifest


class Bundle:
    """An open bundle whose members match its manifest."""

    def __init__(self, path: Path, packed: zipfile.ZipFile) -> None:
        self.path, self._packed = path, packed
        self._entries = _entries(path, packed)
        self.manifest = self._manifest()
        named, present = set(self.manifest.members), set(self._entries) - {MANIFEST}
        if missing := sorted(named - present):
            raise UserError(f"{path}: {printable(missing[0])} is in the manifest and not in the bundle")
        if extra := sorted(present - named):
            raise UserError(f"{path}: {extra[0]} is in the bundle and not in the manifest")
        for name in named:
            self.read(name)

    def names(self, folder: str) -> list[str]:
        """Return the members in a folder, sorted."""
        return sorted(name for name in self.manifest.members if name.startswith(folder + "/"))

    def read(self, name: str) -> bytes:
        """Return a member's content, checked against the manifest.

        Raises:
            UserError: where it differs, or where there is no such member.
        """
        member = self.manifest.members.get(name)
        if member is None:
            raise UserError(f"{self.path}: {name} is missing")
        content = self._unpacked(name, member.bytes)
        if len(content) != member.bytes:
            raise UserError(f"{self.path}: {name} is not of the {member.bytes} bytes that the manifest says")
        if _sha256(content) != member.sha256:
            raise UserError(f"{self.path}: {name} is not what the manifest says; its sha256 is another one")
        if content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")):
            raise UserError(f"{self.path}: {name} is a pickle or an archive, whatever it is called")
        return content

    def text(self, name: str) -> str:
        """Return a member as text."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: {name} is not UTF-8") from None

    def image(self, name: str, height: int, width: int) -> torch.Tensor:
        """Return a member as an image (3, height, width) uint8; see `decode_png`."""
        return decode_png(self.read(name), f"{self.path}: {name}", height, width)

    def _manifest(self) -> Manifest:
        if MANIFEST not in self._entries:
            raise UserError(f"{self.path}: no submission bundle; it has no {MANIFEST}")
        content = self._unpacked(MANIFEST, MAX_BYTES["manifest"])
        if len(content) > MAX_BYTES["manifest"]:
            raise UserError(f"{self.path}: {MANIFEST} is larger than {MAX_BYTES['manifest'] >> 20} MiB")
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as error:
            field, message = first_message(error)
            raise UserError(f"{self.path}: {MANIFEST}: {printable(field) or 'it'}: {printable(message)}") from None

    def _unpacked(self, name: str, limit: int) -> bytes:
        """Return the content of a member, at most one byte more than the limit."""
        try:
            with self._packed.open(self._entries[name]) as file:
                return file.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
            raise UserError(f"{self.path}: {name} is damaged ({printable(str(error))})") from None


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Open a bundle and check it completely.

    Raises:
        UserError: where it contains anything that is not allowed, with a message of one line.
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
    """Return the members by name from the zip's own list; nothing is unpacked for this."""
    listed, size = packed.infolist(), path.stat().st_size
    if len(listed) > MAX_MEMBERS:
        raise UserError(f"{path}: has {len(listed):,} members; at most {MAX_MEMBERS:,} are looked at")
    names: set[str] = set()
    for entry in listed:
        if reason := _reason(entry):
            raise UserError(f"{path}: {entry.orig_filename!r} {reason}")
        if entry.filename.lower() in names:
            raise UserError(f"{path}: {entry.filename!r} is there twice")
        names.add(entry.filename.lower())
    packed_bytes, unpacked = sum(e.compress_size for e in listed), sum(e.file_size for e in listed)
    if packed_bytes > size:
        raise UserError(f"{path}: a zip bomb: its members overlap")
    if unpacked > MAX_BYTES["whole"]:
        raise UserError(f"{path}: unpacks to {unpacked >> 20:,} MiB; at most {MAX_BYTES['whole'] >> 20:,} are looked at")
    return {entry.filename: entry for entry in listed}


def _reason(entry: zipfile.ZipInfo) -> str:
    """Return why a member cannot be in a bundle; empty if it can."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    suffix = PurePosixPath(entry.filename).suffix.lower()
    plain = bool(_PATH.fullmatch(entry.orig_filename)) and entry.filename == entry.orig_filename
    readable = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not entry.flag_bits & 1
    unpacked = f"unpacks to {entry.file_size:,} bytes"
    checks = (
        (plain, "is no plain path inside the bundle"),
        (kind in (0, stat.S_IFREG), "is a link or a device, not a file"),
        (suffix not in _PICKLES, "is a kind of file that may run code when it is read; weights come as .safetensors"),
        (suffix in SUFFIXES, f"is none of the kinds of file in a bundle: {', '.join(SUFFIXES)}"),
        (readable, "is encrypted, or packed in another way than by deflate"),
        (entry.file_size <= MAX_BYTES["member"], f"{unpacked}; at most {MAX_BYTES['member']:,} are looked at"),
        (entry.file_size <= 2**20 + MAX_RATIO * entry.compress_size, f"is a zip bomb: it {unpacked}"),
    )
    return next((reason for fine, reason in checks if not fine), "")


def decode_png(content: bytes, name: str, height: int, width: int) -> torch.Tensor:
    """Return the image in a PNG file, (3, height, width) uint8; its size is checked before anything is decoded.

    Args:
        content: content of the file.
        name: name of the file in errors.
        height, width: required size, which is that of the clean image.

    Raises:
        UserError: where it is not an 8-bit RGB PNG of this size.
    """
    if not content.startswith(_PNG):
        raise UserError(f"{name}: not a PNG file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a huge size differs from the required one
            image = Image.open(io.BytesIO(content), formats=("PNG",))
        with image:
            if image.size != (width, height):
                raise UserError(f"{name}: is {image.width}×{image.height}, and the clean image {width}×{height}")
            deep = any(";16" in str(tile[3]) for tile in image.tile)
            if image.mode != "RGB" or deep or "transparency" in image.info or getattr(image, "n_frames", 1) > 1:
                raise UserError(f"{name}: not a still image in 8-bit RGB")
            pixels = np.asarray(image)
    except UserError:
        raise
    except Exception as error:  # a damaged image raises many kinds of errors
        raise UserError(f"{name}: not a readable PNG file ({' '.join(str(error).split())[:120]})") from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def encode_png(image: torch.Tensor) -> bytes:
    """Return an image (3, H, W) uint8 as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "png", compress_level=6)
    return buffer.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
