"""The page ``site/index.html``: the leaderboard as one file that needs no network, with details of each row."""

from __future__ import annotations

import html
import json
import math
import os
import re
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from iqarena.bench.checkout import ROOT
from iqarena.bench.leaderboard.board import Board, link, links, reflection_cell
from iqarena.bench.leaderboard.content import Content
from iqarena.bench.leaderboard.examples import data_uri
from iqarena.bench.leaderboard.markdown import introduction
from iqarena.bench.leaderboard.plots.heat import transfer_matrix
from iqarena.bench.leaderboard.plots.style import COLORS, OTHER
from iqarena.bench.leaderboard.size_curves import Curve, Family
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.results.formatting import format_eps, short_spec
from iqarena.bench.results.ranking import CellValue, Row
from iqarena.bench.results.track import Condition

SITE = Path(__file__).with_name("site")
MAX_IMAGE_CHARACTERS = 2_500_000
"""Once the embedded images have more characters than this, no further ones are added."""
SCRIPTS = ("common.js", "charts.js", "detail.js", "table.js", "main.js")


def page(out: Path, drawn: Path, content: Content) -> str:
    """Render the page.

    Args:
        out: the folder of leaderboard.md, in which the commands are run.
        drawn: the folder of plots, suites and the page.
        content: what is shown.
    """
    left_out = "".join(f"\n- {html.escape(line)}" for line in content.left_out)
    template = string.Template((SITE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=(SITE / "style.css").read_text(encoding="utf-8"),
        about=MarkdownIt().render(f"{introduction()}\n{left_out}").strip(),
        data=_json(data(out, drawn, content)),
        vendor=(SITE / "vendor/chart.umd.min.js").read_text(encoding="utf-8"),
        script="\n".join((SITE / name).read_text(encoding="utf-8") for name in SCRIPTS),
    )


def without_images(text: str) -> str:
    """Return a page without its embedded images, whose bytes depend on the version of Pillow."""
    return re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]*", "data:image", text)


def data(out: Path, drawn: Path, content: Content) -> dict[str, Any]:
    """Return the data of the page for its scripts; missing values are None, numbers are rounded to four decimals."""
    results = Path(os.path.relpath(drawn, out)).as_posix()
    images: dict[str, str] = {}
    return {
        "colors": COLORS | {"other": OTHER},
        "tracks": [_track(board, drawn / "site", results, images) for board in content.boards],
        "images": images,
        "flags": link(ROOT / "docs/flags.md", drawn / "site"),
        "families": [_family(family) for family in content.families],
    }


def _track(board: Board, folder: Path, results: str, images: dict[str, str]) -> dict[str, Any]:
    keys = sorted({(cell.control, cell.key) for row in board.rows for cell in row.cells})
    attack_indices = {key: index for index, (_, key) in enumerate(keys)}
    track = board.track
    return {
        "slug": board.slug,
        "title": board.title,
        "images": board.images,
        "labels": track.label_kind,
        "labelled": track.labelled,
        "measure": board.measure,
        "robust": board.robust,
        "size": format_eps(track.norm, track.eps),
        "family": board.family,
        "references": board.rows[0].references,
        "attacks": [
            {
                "attack": short_spec(key.attack),
                "objective": f"{key.objective} {key.variant}".strip(),
                "setting": key.setting,
                "control": control,
            }
            for control, key in keys
        ],
        "rows": [
            _row(board, row, attack_indices, folder, results) | {"examples": _examples(board, row, images)}
            for row in board.rows
        ],
        "transfer": _transfer(board) if board.sources else None,
    }


def _row(board: Board, row: Row, attack_indices: dict[Condition, int], folder: Path, results: str) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "model": short_spec(row.model),
        "defense": short_spec(row.defense),
        "name": row.name,
        "kind": row.kind,
        "clean": _numbers(row.clean),
        "robust": _numbers(row.robust),
        "worst": row.worst_attack,
        "shift": _numbers(row.shift),
        "shiftBy": row.shift_attack,
        "noise": _number(row.noise[0]),
        "certified": _number(row.certified),
        "cost": _number(row.cost_ratio),
        "spread": _number(row.spread),
        "flags": [list(flag) for flag in row.signs],
        "missing": list(row.missing[:8]),
        "missingMore": max(len(row.missing) - 8, 0),
        "links": links(row, folder),
        "command": board.commands(row, results),
        "cells": [
            [attack_indices[c.key], *_numbers(c.srocc), _number(c.stability), _number(c.shift), list(c.flags)]
            for c in row.cells
        ],
        "reflection": _reflection(reflection_cell(row)),
    }


def _reflection(cell: CellValue | None) -> dict[str, Any] | None:
    """Return the qualities of a cell in thousandths, which are finer than a dot of the plot is wide."""

    def thousandths(values: Reals) -> list[int | None]:
        return [round(1000 * float(value)) if math.isfinite(value) else None for value in values]

    if cell is None:
        return None
    return {"attack": str(cell.key), "clean": thousandths(cell.clean), "adv": thousandths(cell.adv)}


def _examples(board: Board, row: Row, images: dict[str, str]) -> list[dict[str, Any]]:
    """Return the examples of a row; their images are added to `images`, by name, while these are not too large."""
    entries = []
    for example in board.examples:
        if example.row is not row or sum(map(len, images.values())) > MAX_IMAGE_CHARACTERS:
            continue
        names = [f"{path.parent.name}/{path.stem}" for path in (example.before, example.after)]
        names.append(f"{names[1]} difference")
        images |= {name: data_uri(pixels) for name, pixels in zip(names, example.pixels(), strict=True)}
        entries.append(
            {
                "image": example.image_id,
                "attack": str(example.cell.key),
                "most": example.moved_most,
                "clean": _number(example.clean),
                "adv": _number(example.adv),
                **dict(zip(("before", "after", "difference"), names, strict=True)),
            }
        )
    return entries


def _transfer(board: Board) -> dict[str, Any]:
    rows, grid = transfer_matrix(board)
    return {
        "sources": list(board.sources),
        "rows": [row.name for row in rows],
        "values": [_numbers(values) for values in grid],
    }


def _family(family: Family) -> dict[str, Any]:
    return {
        "family": family.name,
        "title": family.title,
        "measure": family.measure,
        "sizes": list(family.sizes),
        "attacks": family.attacks,
        "curves": [_curve(curve) for curve in family.curves],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {"name": curve.name, "kind": curve.kind, "values": _numbers(curve.values)}


def _number(value: float) -> float | None:
    return round(float(value), 4) + 0.0 if math.isfinite(value) else None


def _numbers(values: Sequence[float] | Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _json(content: dict[str, Any]) -> str:
    """Return JSON without the character `<`, so that no text in it can end the script element."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
