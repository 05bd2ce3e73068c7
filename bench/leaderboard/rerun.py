"""Suites written from the records, which run the cells of a row again."""

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
from iqarena.bench.results.track import Track, tracks_of


@dataclass(frozen=True)
class Rerun:
    """A suite that runs cells of a track again, and the rows that these cells belong to.

    Attributes:
        name: name of its file in ``suites/`` of the results folder.
        text: content of that file, YAML.
        rows: pairs (model, defense).
        root: whether the command needs ``--root``, because the data set is not embedded.
    """

    name: str
    text: str
    rows: frozenset[tuple[str, str]]
    root: bool

    def covers(self, row: Row) -> bool:
        """Check whether a row has cells in this suite."""
        return (row.model, row.defense) in self.rows

    def command(self, model: str, defense: str, results: str) -> str:
        """Return the shell command that runs the cells of one row again.

        Args:
            model, defense: the row.
            results: the results folder as seen from where the command is run.
        """
        suite = posixpath.normpath(f"{results}/suites/{self.name}")
        parts = ["iqarena", "run", suite, "--model", model, "--defense", defense]
        return shlex.join([*parts, *(["--root", "IMAGES"] if self.root else []), "--out", "runs/again"])


def reruns(records: Sequence[dict[str, Any]], slugs: Mapping[Track, str]) -> dict[Track, tuple[Rerun, ...]]:
    """Return the suites of every track; several where its cells differ in seed, draws, query limit or precision.

    Args:
        records: all records of a results folder.
        slugs: parts of the names of the tracks' files.
    """
    grouped: dict[Track, dict[tuple[Any, ...], list[dict[str, Any]]]] = {track: {} for track in slugs}
    for record, track in zip(records, tracks_of(records), strict=True):
        cell = record["cell"]
        settings = (*(cell.get(name) for name in ("seed", "draws", "queries", "precision")), record["n_images"])
        grouped[track].setdefault(settings, []).append(record)
    suites = {}
    for track, groups in grouped.items():
        ordered = sorted(groups, key=str)
        suffixes = [""] if len(ordered) == 1 else [f"-{number}" for number in range(1, len(ordered) + 1)]
        suites[track] = tuple(
            _rerun(f"{slugs[track]}{suffix}", groups[settings]) for settings, suffix in zip(ordered, suffixes, strict=True)
        )
    return suites


def _rerun(name: str, records: list[dict[str, Any]]) -> Rerun:
    cells = [record["cell"] for record in records]
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
        "limit": records[0]["n_images"],
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
        return True  # the data set is a plugin that is not installed here
