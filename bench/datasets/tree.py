"""Case-insensitive search for files below a folder, since copies of a data set differ in the case of their file names."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from iqarena.bench.errors import UserError, printable

DEPTH = 5
"""Levels of folders that are searched; the deepest official layout, CID2013 in a folder of its own, needs 3."""


class Tree:
    """All files below `root` except hidden ones.

    Attributes:
        root: the folder.
        files: from the lower-case path below the root to the actual one; always with forward slashes.
    """

    def __init__(self, root: Path) -> None:
        """List the folder once.

        Raises:
            UserError: if it is not a folder or cannot be read.
        """
        if not root.is_dir():
            problem = "not a folder" if root.exists() else "no such folder"
            raise UserError(f"{root}: {problem}; give the unpacked data set with --root")
        self.root = root
        self.files: dict[str, str] = {}
        self._list(root, "", DEPTH)

    def _list(self, folder: Path, prefix: str, depth: int) -> None:
        try:
            with os.scandir(folder) as entries:
                children = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
        for name, is_folder in children:
            path = f"{prefix}{name}"
            if not is_folder:
                self.files.setdefault(path.lower(), path)
            elif depth:
                self._list(folder / name, f"{path}/", depth - 1)

    def folders_with(self, path: str) -> list[str]:
        """Return the folders that contain an official path; `*` in it matches any part of a name.

        Folders are in lower case, ending with a slash or empty for the root; nearest to the root first.
        """
        pattern = re.escape(path.lower()).replace(r"\*", "[^/]*")
        folders = {match[1] or "" for match in map(re.compile(f"(.*/)?{pattern}").fullmatch, self.files) if match}
        return sorted(folders, key=lambda folder: (folder.count("/"), folder))

    def matching(self, folder: str, path: str) -> list[Path]:
        """Return the files that match an official path below one of these folders, sorted."""
        pattern = re.compile(re.escape(f"{folder}{path}".lower()).replace(r"\*", "[^/]*"))
        return [self.root / self.files[low] for low in sorted(self.files) if pattern.fullmatch(low)]


def check_ids(ids: Sequence[str]) -> None:
    """Check that ids of images can be written in a table: text that is not empty, on one line, each once.

    Raises:
        UserError: for the first that cannot.
    """
    seen: set[str] = set()
    for image_id in ids:
        reason = "is no text" if not isinstance(image_id, str) else _odd(image_id)
        if not reason and image_id in seen:
            reason = "is there twice"
        if reason:
            raise UserError(f"image {printable(str(image_id))!r}: its name {reason}; give it another one")
        seen.add(image_id)


def _odd(name: str) -> str:
    """Return why a name cannot be written in a table; empty if it can."""
    if not name:
        return "is empty"
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
        return "has a line break or another control character"
    return "is not UTF-8" if any(unicodedata.category(letter) == "Cs" for letter in name) else ""


def path_below(written: str) -> str:
    """Return a path that a table gives, with forward slashes, composed letters, and without parts that lead nowhere.

    Raises:
        ValueError: with the reason, if it is no path below the folder of the table.
    """
    if reason := _odd(written):
        raise ValueError(reason)
    path = posixpath.normpath(unicodedata.normalize("NFC", written.replace("\\", "/")))
    if path.startswith("/") or path in (".", "..") or path.startswith("../") or re.match("[A-Za-z]:", path):
        raise ValueError("leads out of the folder; give a path below it")
    if any(len(part.encode()) > 255 for part in path.split("/")) or len(path) > 4000:
        raise ValueError("is longer than any name of a file")
    return path


def spelled_file(root: Path, written: str) -> Path:
    """Return the file that a path below a folder means, which Windows writes with backslashes and macOS with split accents.

    If there is none, the path where it should be.
    """
    path = path_below(written)
    spellings = (path, written, unicodedata.normalize("NFD", path), unicodedata.normalize("NFC", written))
    return next((root / name for name in spellings if (root / name).exists()), root / path)
