"""The page ``leaderboard.md``: the values of its template ``leaderboard.md.j2``."""

from __future__ import annotations

import math
import os
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from iqarena.bench.checkout import ROOT
from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.board import Board, link, links
from iqarena.bench.leaderboard.content import Content
from iqarena.bench.leaderboard.size_curves import Family
from iqarena.bench.registry import MODELS
from iqarena.bench.results.formatting import format_interval, format_number, short_spec, shown, spec_parts
from iqarena.bench.results.ranking import FEW_REFERENCES, Row
from iqarena.bench.results.store import Records
from iqarena.bench.templates import render_markdown

FOLDER = Path(__file__).parent
MAX_ROWS_IN_ALT_TEXT = 12
"""Rows that the alt text of an image names."""


@dataclass(frozen=True)
class Section:
    """The values of the section of one track.

    Attributes:
        table: lines of cells of the ranked rows: headings, alignments, then a line for each row; empty without ranked rows.
        certified: whether the table has a column of certified SROCC.
        unranked: incomplete rows.
        command: makes a row again, with placeholders for model and defense.
        alt_texts: by kind of plot.
    """

    board: Board
    table: Sequence[Sequence[str]]
    certified: bool
    unranked: Sequence[Row]
    command: str
    alt_texts: Mapping[str, str]


def markdown(records: Records, out: Path, content: Content, drawn: Path | None = None) -> str:
    """Render the page, with links relative to the folder `out`.

    Args:
        records: the results folder.
        out: the folder of the page.
        content: what is shown.
        drawn: the folder of plots and suites; the results folder if left out.
    """
    results = Path(os.path.relpath(drawn or records.folder, out)).as_posix()
    boards = content.boards
    unshipped = [board for board in boards if _is_unshipped(board)]
    return render_markdown(
        FOLDER / "leaderboard.md.j2",
        {
            "anchor": _anchor,
            "interval": format_interval,
            "plain": _plain,
            "short": short_spec,
            "url": lambda path: quote(posixpath.normpath(path)),
        },
        results=results,
        command_results=shlex.quote(Path(os.path.relpath(records.folder, out)).as_posix()),
        boards=boards,
        pseudo_label_kinds=sorted({b.track.label_kind for b in boards if b.track.label_kind.startswith("pseudo")}),
        few_references=FEW_REFERENCES,
        isfinite=math.isfinite,
        shipped=[_section(board, out, results) for board in boards if not _is_unshipped(board)],
        curves={family.slug: _curves_alt_text(family) for family in content.families},
        unshipped=[_section(board, out, results) for board in unshipped],
        weight_files=_weight_files(unshipped),
        papers=content.papers,
        left_out=content.left_out,
    )


def introduction() -> str:
    """Return the first paragraphs of the leaderboard, which explain its numbers, as Markdown."""
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in ("introduction.md.j2", "reconstruction.md.j2"))


def _section(board: Board, out: Path, results: str) -> Section:
    ranked = [row for row in board.rows if row.complete]
    certified = any(np.isfinite(row.certified) for row in ranked)
    return Section(
        board,
        _table(board, ranked, certified, out) if ranked else [],
        certified,
        [row for row in board.rows if not row.complete],
        " && ".join(rerun.command("MODEL", "DEFENSE", results) for rerun in board.reruns),
        _alt_texts(board),
    )


def _table(board: Board, rows: Sequence[Row], certified: bool, out: Path) -> list[list[str]]:
    """Return lines of cells: headings, alignments, then a line for each row."""
    label, labelled = board.track.label_kind, board.track.labelled
    columns: dict[str, tuple[str, list[str]]] = {
        "rank": ("--:", [str(row.rank) for row in rows]),
        "model": ("---", [_plain(short_spec(row.model)) for row in rows]),
        "defense": ("---", [_defense(row) for row in rows]),
    }
    if labelled:
        columns[f"clean SROCC ({label})"] = "---", [format_interval(row.clean) for row in rows]
    columns[f"robust SROCC ({label})" if labelled else "stability SROCC"] = (
        "---",
        [f"**{format_number(row.robust[0])}** {format_interval(row.robust, False)}" for row in rows],
    )
    columns["worst attack"] = "---", [_plain(row.worst_attack) for row in rows]
    if certified:
        values = [format_number(row.certified) if np.isfinite(row.certified) else "" for row in rows]
        columns["certified SROCC"] = "--:", values
    columns |= {
        r"largest mean \|shift\|": (
            "---",
            [f"{format_interval(row.shift)} by {_plain(row.shift_attack)}" for row in rows],
        ),
        r"\|shift\| / IQR": (
            "--:",
            [format_number(row.shift[0] / row.spread if row.spread > 0 else None) for row in rows],
        ),
        r"noise \|shift\|": ("--:", [format_number(row.noise[0], 3) for row in rows]),
        "cost": ("--:", ["–" if np.isnan(row.cost_ratio) else f"{row.cost_ratio:.2f}×" for row in rows]),
        "flags": ("---", [", ".join(_flag(flag, out) for flag in row.flags) for row in rows]),
        "links": ("---", [_links(row, out) for row in rows]),
    }
    lines = zip(*(cells for _, cells in columns.values()), strict=True)
    return [list(columns), [alignment for alignment, _ in columns.values()], *map(list, lines)]


def _defense(row: Row) -> str:
    return _plain(short_spec(row.defense)) + (f" ({row.kind})" if row.defense != "none" else "")


def _flag(flag: str, out: Path) -> str:
    page = link(ROOT / "docs/flags.md", out)
    return f"[{flag}]({page}#{_anchor(flag)})" if page else flag


def _links(row: Row, out: Path) -> str:
    return ", ".join(f"[{_plain(name)}]({quote(address, safe=':/#')})" for name, address in links(row, out).items())


def _plain(text: str) -> str:
    """Return text of plugins on one line, with the characters escaped that Markdown would read as markup."""
    return re.sub(r"([\\`*<|$])", r"\\\1", shown(text))


def _anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _alt_texts(board: Board) -> dict[str, str]:
    """Return a description of each plot of a track, by its kind, for readers who cannot see it."""
    rows = board.rows[:MAX_ROWS_IN_ALT_TEXT]
    more = f"; and {len(board.rows) - len(rows)} more rows" if len(board.rows) > len(rows) else ""

    def values(by_row: dict[str, str]) -> str:
        return "; ".join(f"{_plain(name)} {value}" for name, value in by_row.items()) + more

    label = board.measure
    robust = values({row.name: format_number(row.robust[0]) for row in rows})
    clean_and_robust = {row.name: f"{format_number(row.clean[0])} and {format_number(row.robust[0])}" for row in rows}
    shifts = values({row.name: format_number(row.shift[0]) for row in rows})
    examples = "; ".join(
        f"{_plain(example.image_id)} on {_plain(example.row.name)}, "
        f"quality {format_number(example.clean)} to {format_number(example.adv)}"
        for example in board.examples[:MAX_ROWS_IN_ALT_TEXT]
    )
    texts = {
        "robust-srocc": f"Robust {label}: {robust}",
        "clean-robust": f"Clean and robust {label}: {values(clean_and_robust)}",
        "attack-heatmap": f"{label} after each attack, the least of a row: {robust}",
        "quality-shift": f"Mean quality shift by each attack, the largest of a row: {shifts}",
        "reflection": "Quality of each image before and after score reflection, beside the mirror line",
        "images": f"Images before and after attacks, and their difference: {examples}",
        "transfer": f"{label} under attacks crafted on {', '.join(map(_plain, board.sources))} and scored by each row",
    }
    return {kind: texts[kind] for kind in plots.kinds(board)}


def _curves_alt_text(family: Family) -> str:
    curves = "; ".join(
        f"{_plain(curve.name)} {format_number(curve.values[0])} to {format_number(curve.end)}"
        for curve in family.curves[:MAX_ROWS_IN_ALT_TEXT]
    )
    worst = "the one attack that was" if family.attacks == 1 else f"the worst of the {family.attacks} attacks that were"
    return f"{family.title}: robust SROCC under {worst} run at every size, from no attack to {family.sizes[-1]}: {curves}"


def _is_unshipped(board: Board) -> bool:
    """Check whether all models of a track have weights that have to be obtained elsewhere."""
    return all(spec_parts(row.model)[1].get("weights") for row in board.rows)


def _weight_files(boards: Sequence[Board]) -> dict[str, str]:
    """Return a description of the weight file of each model of some tracks, by the model's spec; empty where unknown."""
    files = {}
    for spec in sorted({row.model for board in boards for row in board.rows}):
        name = spec_parts(spec)[0]
        entry = None if name.startswith("file:") else MODELS.entry(name)  # a board must not run the code in a file
        files[spec] = getattr(entry.cls, "weights_wanted", "") if entry else ""
    return files
