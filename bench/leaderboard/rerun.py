"""How to make a row again: suites written from the records themselves."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from iqarena.bench.datasets import dataset_class
from iqarena.bench.errors import UserError
from iqarena.bench.results.ranking import Row
from iqarena.bench.results.track import Track


@dataclass(frozen=True)
class Rerun:
    """A suite that makes cells of a track again, and the rows that have any there.

    Attributes:
        name: of its file, in ``suites/`` of the results folder.
        text: YAML.
        rows: (model, defense).
        root: whether its data set has to be given.
    """

    name: str
    text: str
    rows: frozenset[tuple[str, str]]
    root: bool

    def covers(self, row: Row) -> bool:
        """Whether a row has cells in this suite."""
        return (row.model, row.defense) in self.rows

    def command(self, model: str, defense: str, results: str) -> str:
        """What makes the cells of one row again; `results` is the folder as seen from where the command is run."""
        suite = posixpath.normpath(f"{results}/suites/{self.name}")
        parts = ["iqarena", "run", suite, "--model", model, "--defense", defense]
        return shlex.join([*parts, *(["--root", "IMAGES"] if self.root else []), "--out", "runs/again"])


def reruns(found: Sequence[dict[str, Any]], names: Mapping[Track, str]) -> dict[Track, tuple[Rerun, ...]]:
    """Suites for every track; several where its cells differ in seed, draws, query limit or precision.

    Args:
        found: all records.
        names: of the tracks' files.
    """
    grouped: dict[Track, dict[tuple[Any, ...], list[dict[str, Any]]]] = {track: {} for track in names}
    for record in found:
        cell = record["cell"]
        track = Track(cell["dataset"], record["dataset"]["label_kind"], cell["norm"], float(cell["eps"]))
        rest = (*(cell.get(name) for name in ("seed", "draws", "queries", "precision")), record["n_images"])
        grouped[track].setdefault(rest, []).append(record)
    made = {}
    for track, groups in grouped.items():
        ordered = sorted(groups, key=str)
        ends = [""] if len(ordered) == 1 else [f"-{number}" for number in range(1, len(ordered) + 1)]
        made[track] = tuple(_rerun(f"{names[track]}{end}", groups[rest]) for rest, end in zip(ordered, ends, strict=True))
    return made


def _rerun(name: str, found: list[dict[str, Any]]) -> Rerun:
    cells = [record["cell"] for record in found]
    first = cells[0]
    objectives: dict[tuple[str, float], list[str]] = {}
    for cell in cells:
        known = objectives.setdefault((cell["attack"], float(cell.get("target", 1.0))), [])
        if cell["objective"] not in known:
            known.append(cell["objective"])
    attacks = [
        {"attack": attack, "objectives": kinds} | ({} if target == 1.0 else {"target": target})
        for (attack, target), kinds in objectives.items()
    ]
    sources = sorted({cell["source"] for cell in cells if cell.get("source")})
    settings = sorted({cell["setting"] for cell in cells}, key=lambda setting: (setting != "oblivious", setting))
    threat = {"norm": first["norm"], "eps": first["eps"]} | ({"queries": first["queries"]} if first.get("queries") else {})
    suite = {
        "name": name,
        "dataset": first["dataset"],
        "limit": found[0]["n_images"],
        "models": sorted({cell["model"] for cell in cells}),
        "defenses": sorted({cell["defense"] for cell in cells}),
        "attacks": attacks,
        "threats": [threat],
        "settings": settings,
        **({"transfer_from": sources} if sources else {}),
        "seed": first["seed"],
        "draws": first.get("draws", 8),
        "precision": first.get("precision", "float32"),
    }
    text = "# Made from the records; with --model and --defense it makes one row again.\n"
    text += yaml.safe_dump(suite, sort_keys=False, allow_unicode=True, width=110)
    rows = frozenset((cell["model"], cell["defense"]) for cell in cells)
    return Rerun(f"{name}.yaml", text, rows, _needs_root(first["dataset"]))


def _needs_root(dataset: str) -> bool:
    try:
        return bool(getattr(dataset_class(dataset), "layout", ""))
    except UserError:
        return True  # of a plugin that is not installed here
