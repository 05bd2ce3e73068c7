"""``leaderboard.md``, plots, suites and the page: a pure function of a results folder, and of cards."""

from __future__ import annotations

from pathlib import Path

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.content import Content, content
from iqarena.bench.leaderboard.examples import prune
from iqarena.bench.leaderboard.markdown import markdown
from iqarena.bench.leaderboard.page import page, without_images
from iqarena.bench.results.store import Records


def render(records: Records, out: Path) -> list[Path]:
    """Write ``leaderboard.md`` to `out`, and ``plots/``, ``suites/`` and ``site/index.html`` to the results folder.

    Returns:
        The files.

    Raises:
        UserError: without records, or where it cannot write.
    """
    shown = content(records)
    written = []
    try:
        for path, text in _texts(records, out, shown).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
        folder = records.folder / "plots"
        folder.mkdir(parents=True, exist_ok=True)
        written += plots.draw(shown.boards, shown.families, folder)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written ({error.strerror}); choose another --out") from None
    return written


def check(records: Records, out: Path) -> list[str]:
    """A line for each file that is not what the records give; empty where all is well.

    Texts are compared byte for byte. Images need only be there: their bytes change with the versions of other
    libraries.

    Raises:
        UserError: without records.
    """
    shown = content(records)
    texts, lines = _texts(records, out, shown), []
    for path, text in texts.items():
        if not path.is_file():
            lines.append(f"{path}: missing")
        elif without_images(path.read_text(encoding="utf-8")) != without_images(text):
            lines.append(f"{path}: differs from what the records give")
    folder = records.folder / "plots"
    names = plots.file_names(shown.boards, shown.families)
    lines += [f"{folder / name}: missing" for name in names if not (folder / name).is_file()]
    known = {*(folder / name for name in names), *texts}
    found = [path for kind in ("plots", "suites") for path in sorted((records.folder / kind).glob("*"))]
    return lines + [f"{path}: not of these records; delete it" for path in found if path not in known]


def prune_images(records: Records) -> int:
    """Delete kept images that the board does not show, and return how many; the rest is still the same board.

    Cells whose images are gone can be scored again only after they were run again.
    """
    return prune(records, [example for board in content(records).boards for example in board.examples])


def _texts(records: Records, out: Path, shown: Content) -> dict[Path, str]:
    suites = {records.folder / "suites" / again.name: again.text for board in shown.boards for again in board.reruns}
    pages = {
        out / "leaderboard.md": markdown(records, out, shown),
        records.folder / "site/index.html": page(records, out, shown),
    }
    return pages | suites
