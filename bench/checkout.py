"""Where the project's files lie: every path that is computed from this package's own place."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds ``bench/`` and ``models/``: the checkout, or ``iqarena/`` in site-packages."""

IMPORT_ROOT = ROOT if (ROOT / "iqarena").is_dir() else ROOT.parent
"""The folder that has to be on the path for ``import iqarena``."""


def is_checkout(folder: Path) -> bool:
    """Whether a folder is the top of a checkout of this project."""
    return (folder / "pyproject.toml").is_file() and (folder / "bench").is_dir() and (folder / "iqarena").is_dir()


def checkout_around(folder: Path) -> Path | None:
    """Return the checkout that a folder is in, if it is in one."""
    resolved = folder.resolve()
    return next((parent for parent in (resolved, *resolved.parents) if is_checkout(parent)), None)


def project_file(path: Path, seen_from: Path) -> Path | None:
    """Return where a file of the project lies in the checkout around a folder, else beside the code that runs.

    So a board that is rendered into a checkout links to the files of that checkout, wherever the package is installed.

    Args:
        path: below `ROOT`.
        seen_from: the folder.

    Returns:
        None where neither has the file.
    """
    roots = [root for root in (checkout_around(seen_from), ROOT) if root is not None]
    return next((root / path.relative_to(ROOT) for root in roots if (root / path.relative_to(ROOT)).is_file()), None)
