"""Rendering of ``leaderboard.md``, plots, suites and the page: a pure function of the records and the weights' cards."""

from __future__ import annotations

import os
from pathlib import Path

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.content import Content, content
from iqarena.bench.leaderboard.examples import prune
from iqarena.bench.leaderboard.markdown import markdown
from iqarena.bench.leaderboard.page import page, without_images
from iqarena.bench.results.store import Records

PAGE = "site/index.html"


def render(records: Records, out: Path) -> list[Path]:
    """Write ``leaderboard.md`` to `out`, and ``plots/``, ``suites/`` and ``site/index.html`` to the results folder.

    Where the results folder is read-only, all is written to `out`.

    Returns:
        The written files.

    Raises:
        UserError: if there are no records, or a file cannot be written.
    """
    board_content, drawn = content(records), records.folder if _writable(records.folder) else out
    written = []
    try:
        for path, text in _texts(records, out, drawn, board_content).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
        folder = drawn / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        written += plots.draw(board_content.boards, board_content.families, folder)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written ({error.strerror}); choose another --out") from None
    return written


def check(records: Records, out: Path) -> list[str]:
    """Compare the rendered files with what the records give, and return a message for each file that differs.

    Texts are compared byte for byte. Images need only exist: their bytes depend on the versions of other libraries.

    Raises:
        UserError: if there are no records.
    """
    board_content, drawn = content(records), records.folder
    if not _writable(drawn) and (out / PAGE).is_file():
        drawn = out
    texts, messages = _texts(records, out, drawn, board_content), []
    for path, text in texts.items():
        if not path.is_file():
            messages.append(f"{path}: missing")
        elif without_images(path.read_text(encoding="utf-8")) != without_images(text):
            messages.append(f"{path}: differs from what the records give")
    folder = drawn / "plots"
    names = plots.file_names(board_content.boards, board_content.families)
    messages += [f"{folder / name}: missing" for name in names if not (folder / name).is_file()]
    known = {*(folder / name for name in names), *texts}
    existing = [path for kind in ("plots", "suites") for path in sorted((drawn / kind).glob("*"))]
    return messages + [f"{path}: not of these records; delete it" for path in existing if path not in known]


def prune_images(records: Records) -> int:
    """Delete kept images that the leaderboard does not show, and return how many; the leaderboard stays the same.

    Cells whose images are deleted can be scored again only after they were run again.
    """
    return prune(records, [example for board in content(records).boards for example in board.examples])


def _writable(folder: Path) -> bool:
    """Check whether files can be written to a folder, its plots and its page."""
    return all(os.access(path, os.W_OK) for path in (folder, folder / "plots", folder / "site") if path.exists())


def _texts(records: Records, out: Path, drawn: Path, board_content: Content) -> dict[Path, str]:
    reruns = [rerun for board in board_content.boards for rerun in board.reruns]
    texts = {
        out / "leaderboard.md": markdown(records, out, board_content, drawn),
        drawn / PAGE: page(out, drawn, board_content),
        **{drawn / "suites" / rerun.name: rerun.text for rerun in reruns},
    }
    return {path: text.encode("utf-8", "replace").decode() for path, text in texts.items()}  # a lone surrogate becomes a ?
