"""Paths of the project's files: all paths that are derived from the location of this package."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that contains ``bench/`` and ``models/``: the checkout, or ``iqarena/`` in site-packages."""

IMPORT_ROOT = ROOT if (ROOT / "iqarena").is_dir() else ROOT.parent
"""The folder that must be on Python's path for ``import iqarena``."""


def is_checkout(folder: Path) -> bool:
    """Check whether a folder is the root of a checkout of this project."""
    return (folder / "pyproject.toml").is_file() and (folder / "bench").is_dir() and (folder / "iqarena").is_dir()


def checkout_around(folder: Path) -> Path | None:
    """Return the checkout that contains a folder, or None."""
    resolved = folder.resolve()
    return next((parent for parent in (resolved, *resolved.parents) if is_checkout(parent)), None)


def project_file(path: Path, seen_from: Path) -> Path | None:
    """Return the path of a project file in the checkout that contains a folder, else in the running package.

    So a leaderboard that is rendered into a checkout links to the files of that checkout, wherever the package is installed.

    Args:
        path: path of the file below `ROOT`.
        seen_from: the folder.

    Returns:
        None if neither has the file.
    """
    roots = [root for root in (checkout_around(seen_from), ROOT) if root is not None]
    return next((root / path.relative_to(ROOT) for root in roots if (root / path.relative_to(ROOT)).is_file()), None)


def with_home(path: Path) -> Path:
    """Return a path with the home folder for a leading ``~``, which a shell leaves in ``--out=~/x`` and in quotes."""
    return path.expanduser() if path.parts[:1] == ("~",) else path
