"""``leaderboard.md``."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from iqarena.bench.checkout import ROOT
from iqarena.bench.leaderboard import plots
from iqarena.bench.leaderboard.board import Board, link, links
from iqarena.bench.leaderboard.content import Content
from iqarena.bench.leaderboard.size_curves import Family
from iqarena.bench.registry import MODELS, parse_spec
from iqarena.bench.results.formatting import format_interval, format_number, short_spec
from iqarena.bench.results.ranking import FEW_REFERENCES, Row
from iqarena.bench.results.store import Records

INTRO = """\
Each row is an image quality model behind a defense. Attacks change the images inside the track's limit; the deployed,
defended model then scores the stored 8-bit images. **Robust SROCC** is the rank correlation of those scores with the
labels, the *least* over all attacks, objectives and settings (oblivious: crafted on the undefended model; adaptive: through
the defense; transfer: on another model). Brackets are 95 % bootstrap intervals over reference images; the least is
taken anew in every resample. **Rank** is 1 + the number of rows whose interval lies wholly above this one's: two rows whose
intervals overlap share a rank, unless a third row lies wholly above only one of them. Rows stand in order of robust SROCC,
so ranks need not rise down a table; a wide interval is no merit. **Mean |shift|** is how far an attack moves quality
on average (1 is the whole scale), the largest over attacks; both numbers stand here because they disagree. Beside it
the same as a multiple of the inter-quartile range (IQR) of the model's own clean qualities, since one that uses little
of its scale moves by little of it too. Random noise of the same size is a control and never ranks. Scores that are all
equal count as SROCC 0. Cost is seconds an image against the undefended model. Rows with missing or failed cells are not
ranked. An attack that was tried on less than half of the rows counts for the rows that have it; others are complete
without it."""
RECONSTRUCTION = "CPRL and score reflection are our reconstruction from the abstracts of [arXiv 2404.19567](https://arxiv.org/abs/2404.19567)."
ABOUT = (INTRO, RECONSTRUCTION)
"""Said here and on the page."""
PSEUDO = (
    "**The labels are {kind}, not people's opinions:** computed, not collected from viewers. "
    "Ranks show how well models hold to these labels, not how well they agree with people."
)
CERTIFIED = "**Certified SROCC** is what no change within the limit can undercut, if the certificates of all images hold."
UNLABELLED = (
    "Nobody rated these images, so there is no SROCC with labels: **stability SROCC** is the rank correlation of attacked "
    "with clean qualities, the least over all attacks, and ranks like robust SROCC elsewhere. An attack that does nothing "
    "leaves 1."
)
UNSHIPPED = """\
These weights are published by others and do not come with this project; the rows are made by whoever has the files."""
NAMED_IN_WORDS = 12
"""Rows that an image's description spells out."""


def markdown(records: Records, out: Path, content: Content) -> str:
    """The text, with links relative to where it lies."""
    results = Path(os.path.relpath(records.folder, out)).as_posix()
    boards, families = content.boards, content.families
    site = posixpath.normpath(f"{results}/site/index.html")
    shipped, others = [b for b in boards if not _unshipped(b)], [b for b in boards if _unshipped(b)]
    parts = ["# IQArena leaderboard", INTRO]
    kinds = sorted({board.track.label_kind for board in boards if board.track.label_kind.startswith("pseudo")})
    parts += [PSEUDO.format(kind=kind) for kind in kinds]
    parts += [
        RECONSTRUCTION,
        f"Made from the records by `iqarena leaderboard --results {shlex.quote(results)}`; never edited. The same with "
        "sortable tables, every attack and every command is one file that works from disk: "
        f"[site/index.html]({quote(site)}).",
    ]
    if len(boards) > 1:
        parts.append("\n".join(f"- [{board.title}](#{_anchor(board.title)}): {len(board.rows)} rows" for board in boards))
    for board in shipped:
        parts += _section(board, out, results)
    if families:
        parts.append("## Against the size of the attack")
        parts += [_image("curves", family.slug, _curves_in_words(family), results) for family in families]
    if others:
        parts += ["## Published weights that are not shipped", UNSHIPPED, "\n".join(_how_to_get(others))]
        for board in others:
            parts += _section(board, out, results, level=3)
    return "\n\n".join([*parts, *_papers(content)]) + "\n"


def _section(board: Board, out: Path, results: str, level: int = 2) -> list[str]:
    ranked, others = [r for r in board.rows if r.complete], [r for r in board.rows if not r.complete]
    track, references = board.track, board.rows[0].references
    about = f"{board.images}; labels: {track.label_kind}."
    parts = [f"{'#' * level} {board.title}", about if track.labelled else f"{about} {UNLABELLED}"]
    if references < FEW_REFERENCES:
        parts.append(f"*Only {references} reference images: the intervals are wide and rough, and shared ranks say little.*")
    if ranked:
        parts.append(_table(board, ranked, out))
    if any(np.isfinite(row.certified) for row in ranked):
        parts.append(CERTIFIED)
    if others:
        parts += ["**Not ranked, because incomplete** (the least so far can only fall):", "\n".join(map(_unranked, others))]
    again = " && ".join(rerun.command("MODEL", "DEFENSE", results) for rerun in board.reruns)
    parts.append(f"A row again, with its model and defense as in the table (without them: all rows): `{again}`")
    images = [_image(kind, board.slug, alt, results) for kind, alt in _alts(board).items()]
    parts.append(images[0])
    if images[1:]:
        parts.append("\n\n".join(["<details><summary>More plots</summary>", *images[1:], "</details>"]))
    return parts


def _image(kind: str, slug: str, alt: str, results: str) -> str:
    stem = quote(posixpath.normpath(f"{results}/plots/{kind}-{slug}"))
    return f"[![{alt}]({stem}.png)]({stem}.svg)"


def _table(board: Board, rows: Sequence[Row], out: Path) -> str:
    label = board.track.label_kind
    certified = any(np.isfinite(row.certified) for row in rows)
    columns: dict[str, tuple[str, list[str]]] = {"rank": ("--:", [str(row.rank) for row in rows])}
    columns["model"] = "---", [_plain(short_spec(row.model)) for row in rows]
    columns["defense"] = "---", [_defense(row) for row in rows]
    if board.track.labelled:
        columns[f"clean SROCC ({label})"] = "---", [format_interval(row.clean) for row in rows]
    robust = f"robust SROCC ({label})" if board.track.labelled else "stability SROCC"
    columns[robust] = "---", [f"**{format_number(row.robust[0])}** {format_interval(row.robust, False)}" for row in rows]
    columns["worst attack"] = "---", [_plain(row.worst_attack) for row in rows]
    if certified:
        columns["certified SROCC"] = (
            "--:",
            [format_number(row.certified) if np.isfinite(row.certified) else "" for row in rows],
        )
    columns[r"largest mean \|shift\|"] = (
        "---",
        [f"{format_interval(row.shift)} by {_plain(row.shift_attack)}" for row in rows],
    )
    columns[r"\|shift\| / IQR"] = (
        "--:",
        [format_number(row.shift[0] / row.spread if row.spread > 0 else None) for row in rows],
    )
    columns[r"noise \|shift\|"] = "--:", [format_number(row.noise[0], 3) for row in rows]
    columns["cost"] = "--:", ["–" if np.isnan(row.cost_ratio) else f"{row.cost_ratio:.2f}×" for row in rows]
    columns["flags"] = "---", [", ".join(_flag(flag, out) for flag in row.flags) for row in rows]
    columns["links"] = (
        "---",
        [", ".join(f"[{_plain(k)}]({quote(v, safe=':/#')})" for k, v in links(row, out).items()) for row in rows],
    )
    lines = [list(columns), [align for align, _ in columns.values()]]
    lines += [list(line) for line in zip(*(cells for _, cells in columns.values()), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _defense(row: Row) -> str:
    return _plain(short_spec(row.defense)) + (f" ({row.kind})" if row.defense != "none" else "")


def _flag(flag: str, out: Path) -> str:
    page = link(ROOT / "docs/flags.md", out)
    return f"[{flag}]({page}#{_anchor(flag)})" if page else flag


def _unranked(row: Row) -> str:
    clean = f"clean {format_interval(row.clean)}, " if np.isfinite(row.clean[0]) else ""
    lacks = "; ".join(map(_plain, row.missing[:3])) + (f"; and {len(row.missing) - 3} more" if len(row.missing) > 3 else "")
    name = f"{_plain(short_spec(row.model))}, {_plain(short_spec(row.defense))}"
    return f"- {name}: {clean}least so far {format_interval(row.robust)}. Missing: {lacks}."


def _plain(text: str) -> str:
    """Text from plugins, kept from being read as markup."""
    return re.sub(r"([\\`*<|$])", r"\\\1", " ".join(text.split()))


def _anchor(title: str) -> str:
    """What a heading is called in a link."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _alts(board: Board) -> dict[str, str]:
    """What each plot shows, in words, for those who cannot see it."""
    rows = board.rows[:NAMED_IN_WORDS]
    more = f"; and {len(board.rows) - len(rows)} more rows" if len(board.rows) > len(rows) else ""

    def each(about: dict[str, str]) -> str:
        return "; ".join(f"{_plain(name)} {value}" for name, value in about.items()) + more

    label = board.measure
    robust = each({row.name: format_number(row.robust[0]) for row in rows})
    known = {
        "robust-srocc": f"Robust {label}: {robust}",
        "clean-robust": f"Clean and robust {label}: "
        + each({row.name: f"{format_number(row.clean[0])} and {format_number(row.robust[0])}" for row in rows}),
        "attack-heatmap": f"{label} after each attack, the least of a row: {robust}",
        "quality-shift": "Mean quality shift by each attack, the largest of a row: "
        + each({row.name: format_number(row.shift[0]) for row in rows}),
        "reflection": "Quality of each image before and after score reflection, beside the mirror line",
        "images": "Images before and after attacks, and their difference: " + _images_in_words(board),
        "transfer": f"{label} under attacks crafted on {', '.join(map(_plain, board.sources))} and scored by each row",
    }
    return {kind: known[kind] for kind in plots.kinds(board)}


def _images_in_words(board: Board) -> str:
    return "; ".join(
        f"{_plain(one.image_id)} on {_plain(one.row.name)}, quality {format_number(one.clean)} to {format_number(one.adv)}"
        for one in board.examples[:NAMED_IN_WORDS]
    )


def _curves_in_words(family: Family) -> str:
    rows = "; ".join(
        f"{_plain(c.name)} {format_number(c.values[0])} to {format_number(c.end)}" for c in family.curves[:NAMED_IN_WORDS]
    )
    worst = "the one attack that was" if family.attacks == 1 else f"the worst of the {family.attacks} attacks that were"
    return f"{family.title}: robust SROCC under {worst} run at every size, from no attack to {family.sizes[-1]}: {rows}"


def _weights(row: Row) -> str:
    return str(parse_spec(row.model)[1].get("weights", ""))


def _unshipped(board: Board) -> bool:
    """Whether all models of a track come from files that have to be got elsewhere."""
    return all(_weights(row) for row in board.rows)


def _how_to_get(boards: Sequence[Board]) -> list[str]:
    lines = []
    for spec in sorted({row.model for board in boards for row in board.rows}):
        name, _ = parse_spec(spec)
        entry = MODELS.entry(name)
        wanted = getattr(entry.made, "weights_wanted", "") if entry else ""
        lines.append(f"- `{spec}`" + (f": the file is {_plain(wanted)}." if wanted else ""))
    return lines


def _papers(content: Content) -> list[str]:
    """Where everything on the page comes from."""
    lines = [f"- {part} {_plain(short_spec(name))}: {paper}" for part, name, paper in content.papers]
    return ["## Papers", "\n".join(lines)] if lines else []
