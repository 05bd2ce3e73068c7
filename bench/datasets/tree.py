"""The files below a folder, found by their path in any case: data sets are unpacked, moved and renamed for years."""

from __future__ import annotations

import os
import re
from pathlib import Path

from iqarena.bench.errors import UserError

DEPTH = 5
"""Folders below the root that are looked into; the deepest official layout, CID2013's in a folder of its own, needs 3."""


class Tree:
    """All files below `root`, hidden ones left out.

    Attributes:
        root: the folder.
        files: path below the root as it is, by the same in lower case; always with forward slashes.
    """

    def __init__(self, root: Path) -> None:
        """Walk the folder once.

        Raises:
            UserError: where it is none or cannot be read.
        """
        if not root.is_dir():
            what = "not a folder" if root.exists() else "no such folder"
            raise UserError(f"{root}: {what}; give the unpacked data set with --root")
        self.root = root
        self.files: dict[str, str] = {}
        self._walk(root, "", DEPTH)

    def _walk(self, folder: Path, below: str, depth: int) -> None:
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise UserError(f"{folder}: cannot be read ({error.strerror})") from None
        for name, is_folder in found:
            path = f"{below}{name}"
            if not is_folder:
                self.files.setdefault(path.lower(), path)
            elif depth:
                self._walk(folder / name, f"{path}/", depth - 1)

    def places_of(self, path: str) -> list[str]:
        """The folders below which an official path lies; `*` in it stands for any part of a name.

        In lower case, ending with a slash or empty for the root; nearest to the root first.
        """
        names = re.escape(path.lower()).replace(r"\*", "[^/]*")
        found = {match[1] or "" for match in map(re.compile(f"(.*/)?{names}").fullmatch, self.files) if match}
        return sorted(found, key=lambda place: (place.count("/"), place))

    def matching(self, place: str, path: str) -> list[Path]:
        """The files that an official path names below one of these folders, sorted."""
        names = re.compile(re.escape(f"{place}{path}".lower()).replace(r"\*", "[^/]*"))
        return [self.root / self.files[low] for low in sorted(self.files) if names.fullmatch(low)]
