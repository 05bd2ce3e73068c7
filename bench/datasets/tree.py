"""Case-insensitive search for files below a folder, since copies of a data set differ in the case of their file names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from iqarena.bench.errors import UserError

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
