"""From records to ranks: ``leaderboard.md`` and its plots, a pure function of a results folder."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import numpy as np

from bench import plots
from bench.bootstrap import Interval
from bench.errors import UserError
from bench.plots import signed
from bench.ranking import FEW_REFERENCES, CellValue, Key, Row, Track, tracks
from bench.records import Records


def render(records: Records, out: Path) -> list[Path]:
    """Write ``leaderboard.md`` to `out` and the plots to ``plots/`` in the results folder; returns the files.

    Raises:
        UserError: without records, or where it cannot write.
    """
    board = _boards(records)
    text, folder = _markdown(records, out, board), records.folder / "plots"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        (out / "leaderboard.md").write_text(text, encoding="utf-8")
        (folder / "data.json").write_text(_data(board), encoding="utf-8")
        drawn = [path for plot, _ in board.values() for path in plots.draw(plot, folder)]
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written ({error.strerror}); choose another --out") from None
    return [out / "leaderboard.md", folder / "data.json", *drawn]


def check(records: Records, out: Path) -> list[str]:
    """A line for each file that is not what the records give; empty where all is well.

    The text and the numbers of the plots are compared byte for byte. The pictures need only be there: their bytes change
    with the version of matplotlib.

    Raises:
        UserError: without records.
    """
    board, folder = _boards(records), records.folder / "plots"
    wanted = {out / "leaderboard.md": _markdown(records, out, board), folder / "data.json": _data(board)}
    lines = []
    for path, text in wanted.items():
        if not path.is_file():
            lines.append(f"{path}: missing")
        elif path.read_bytes() != text.encode():
            lines.append(f"{path}: differs from what the records give")
    names = [name for plot, _ in board.values() for name in plots.file_names(plot.slug)]
    return lines + [f"{folder / name}: missing" for name in names if not (folder / name).is_file()]


_Boards = dict[Track, tuple[plots.Board, list[Row]]]


def _boards(records: Records) -> _Boards:
    found = tracks(records)
    if not found:
        raise UserError(f"{records.folder}: no records; make some with iqarena run --out {shlex.quote(str(records.folder))}")
    slugs = _slugs(found)
    return {track: (_board(track, rows, slugs[track]), rows) for track, rows in found.items()}


def size(norm: str, eps: float) -> str:
    """A threat's size as people write it: k/255 for linf where it is one."""
    steps = round(eps * 255)
    return f"{steps}/255" if norm == "linf" and 0 < steps < 255 and abs(eps * 255 - steps) < 1e-6 else f"{eps:g}"


def _slugs(found: Iterable[Track]) -> dict[Track, str]:
    """A file name part for each track; the label kind, then a number, where it would be taken."""
    slugs: dict[Track, str] = {}
    for track in found:
        dataset, label_kind, norm, eps = track
        plain = [f"{dataset} {norm} {size(norm, eps)}", f"{dataset} {label_kind} {norm} {size(norm, eps)}"]
        tries = [*plain, *(f"{plain[1]} {n}" for n in range(2, len(slugs) + 3))]
        names = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in tries]
        slugs[track] = next(name for name in names if name not in slugs.values())
    return slugs


def _board(track: Track, rows: Sequence[Row], slug: str) -> plots.Board:
    """The numbers that are drawn, in the order of the table."""
    keys = sorted({(cell.control, cell.key) for row in rows for cell in row.cells})
    columns = list(dict.fromkeys((control, key.attack, _objective(key)) for control, key in keys))
    settings = sorted({key.setting for _, key in keys}, key=lambda s: (s != "oblivious", s))
    values = [{(c.key.setting, c.key.attack, _objective(c.key)): c for c in row.cells} for row in rows]
    none = CellValue(Key("", "", ""), False, float("nan"), float("nan"))

    def grid(setting: str, measure: str) -> tuple[tuple[plots.Number, ...], ...]:
        return tuple(
            tuple(plots.rounded(getattr(own.get((setting, *column[1:]), none), measure)) for column in columns)
            for own in values
        )

    def triple(values: Interval) -> plots.Triple:
        return (plots.rounded(values[0]), plots.rounded(values[1]), plots.rounded(values[2]))

    return plots.Board(
        slug=slug,
        title=f"{_title(track)} · {rows[0].images} pictures of {rows[0].references} references",
        label_kind=track[1],
        lines=tuple(plots.Line(r.rank, r.model, r.defense, triple(r.clean), triple(r.robust)) for r in rows),
        columns=tuple((attack, objective) for _, attack, objective in columns),
        controls=sum(control for control, *_ in columns),
        panels=tuple(plots.Panel(s, grid(s, "srocc"), grid(s, "shift")) for s in settings),
    )


def _objective(key: Key) -> str:
    return f"{key.objective} {key.variant}".strip()


def _title(track: Track) -> str:
    return f"{track[0]}, {track[2]}, ε = {size(track[2], track[3])}"


def _data(board: _Boards) -> str:
    return json.dumps([asdict(plot) for plot, _ in board.values()], indent=1, ensure_ascii=False) + "\n"


# --- the page

INTRO = """\
Each row is an image quality model behind a defense. Attacks change the pictures inside the track's limit; the deployed,
defended model then scores the stored 8-bit pictures. **Robust SROCC** is the rank correlation of those scores with the
labels, the *least* over all attacks, objectives and settings (oblivious: crafted on the undefended model; adaptive: through
the defense). Brackets are 95 % bootstrap intervals over reference pictures; the least is taken anew in every resample. Rank
is 1 + the number of rows whose interval lies wholly above this one's, so **overlapping intervals share a rank**, and a wide
interval is no merit. **Mean |shift|** is how far an attack moves quality on average (1 is the whole scale), the largest over
attacks; both numbers stand here because they disagree. Random noise of the same size is a control and never ranks. Scores
that are all equal count as SROCC 0. Cost is seconds an image against the undefended model. Rows with missing or failed
cells are not ranked."""
PSEUDO = (
    "**The labels are {kind}, not people's opinions:** computed, not collected from viewers. "
    "Ranks show how well models hold to these labels, not how well they agree with people."
)
RECONSTRUCTION = "CPRL and score reflection are our reconstruction from the abstracts of [arXiv 2404.19567](https://arxiv.org/abs/2404.19567)."


def _markdown(records: Records, out: Path, board: _Boards) -> str:
    """The page, with picture links relative to where it lies."""
    results = Path(os.path.relpath(records.folder, out)).as_posix()
    parts = ["# IQArena leaderboard", INTRO]
    kinds = sorted({track[1] for track in board if track[1].startswith("pseudo")})
    parts += [PSEUDO.format(kind=kind) for kind in kinds]
    parts += [
        RECONSTRUCTION,
        f"Made from the records by `iqarena leaderboard --results {shlex.quote(results)}`; never edited.",
    ]
    for track, (plot, rows) in board.items():
        parts += _section(track, plot, rows, quote(f"{results}/plots"))
    return "\n\n".join([*parts, *_papers(records)]) + "\n"


def _section(track: Track, plot: plots.Board, rows: Sequence[Row], folder: str) -> list[str]:
    ranked, others, label = [r for r in rows if r.complete], [r for r in rows if not r.complete], track[1]
    images, references = rows[0].images, rows[0].references
    parts = [f"## {_title(track)}", f"{images} pictures made from {references} reference pictures; labels: {label}."]
    if references < FEW_REFERENCES:
        parts.append(
            f"*Only {references} reference pictures: the intervals are wide and rough, and shared ranks say little.*"
        )
    if ranked:
        parts.append(_table(ranked, label))
    if others:
        parts += ["**Not ranked, because incomplete** (the least so far can only fall):", "\n".join(map(_unranked, others))]
    for kind, alt in _alts(plot, rows).items():
        parts.append(f"[![{alt}]({folder}/{kind}-{plot.slug}.png)]({folder}/{kind}-{plot.slug}.svg)")
    return parts


def _table(rows: Sequence[Row], label: str) -> str:
    head = ["rank", "model", "defense", f"clean SROCC ({label})", f"robust SROCC ({label})", "worst attack",
            r"largest mean \|shift\|", r"noise \|shift\|", "cost", "flags"]  # fmt: skip
    lines = [head, ["--:", "---", "---", "---", "---", "---", "---", "--:", "--:", "---"]]
    for r in rows:
        defense = _plain(r.defense) + (f" ({r.kind})" if r.defense != "none" else "")
        lines.append([
            str(r.rank), _plain(r.model), defense, _span(r.clean), f"**{signed(r.robust[0])}** {_span(r.robust, False)}",
            _plain(r.worst_attack), f"{_span(r.shift)} by {_plain(r.shift_attack)}",
            signed(r.noise[0], 3), "–" if np.isnan(r.cost_ratio) else f"{r.cost_ratio:.2f}×", ", ".join(r.flags),
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _span(values: Interval, with_value: bool = True) -> str:
    return (f"{signed(values[0])} " if with_value else "") + f"[{signed(values[1])}, {signed(values[2])}]"


def _unranked(row: Row) -> str:
    name, lacks = f"{_plain(row.model)}, {_plain(row.defense)}", "; ".join(map(_plain, row.missing))
    return f"- {name}: clean {_span(row.clean)}, least so far {_span(row.robust)}. Missing: {lacks}."


def _plain(text: str) -> str:
    """Text from plugins, kept from being read as markup."""
    return re.sub(r"([\\`*<|])", r"\\\1", " ".join(text.split()))


def _alts(plot: plots.Board, rows: Sequence[Row]) -> dict[str, str]:
    """What each plot shows, in words, for those who cannot see it."""
    names, label = [_plain(line.name) for line in plot.lines], f"SROCC with {plot.label_kind}"
    robust = "; ".join(f"{name} {signed(row.robust[0])}" for name, row in zip(names, rows, strict=True))
    both = "; ".join(f"{name} {signed(r.clean[0])} and {signed(r.robust[0])}" for name, r in zip(names, rows, strict=True))
    shift = "; ".join(f"{name} {signed(row.shift[0])}" for name, row in zip(names, rows, strict=True))
    cells = f"{label} after each attack, the least of a row: {robust}"
    shifts = f"Mean quality shift by each attack, the largest of a row: {shift}"
    return dict(
        zip(plots.KINDS, (f"Robust {label}: {robust}", cells, f"Clean and robust {label}: {both}", shifts), strict=True)
    )


def _papers(records: Records) -> list[str]:
    """Where everything on the page comes from."""
    found = sorted({
        (part, record["cell"][part], record[part]["paper"])
        for record in records.all() for part in ("model", "defense", "attack") if record[part].get("paper")
    })  # fmt: skip
    return ["## Papers", "\n".join(f"- {part} {_plain(name)}: {paper}" for part, name, paper in found)] if found else []
