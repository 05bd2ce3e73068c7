"""`iqarena verify`: measures a submission anew, and sets what comes out beside what was claimed."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from iqarena.bench.cells import Cell
from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import execute
from iqarena.bench.metrics.measures import measure_cell
from iqarena.bench.registry import DEFENSES
from iqarena.bench.results.flags import SAME_QUALITY
from iqarena.bench.results.provenance import provenance
from iqarena.bench.results.store import IMAGE_COLUMNS, Records, read_images
from iqarena.bench.submission.bundle import Bundle, CellClaim, decoded, opened
from iqarena.bench.submission.rescoring import CLAIMED, brought, checked_cell, listed, rescored, suite_of
from iqarena.bench.submission.sandbox import Limits, run
from iqarena.bench.submission.standing import SAME_RANKS, BoardStanding, standing

SAME_RUN = 0.05
"""Of a measure of images that were made anew: on another processor an attack's steps round otherwise, and it walks on from
there. On the machine of the claim it is the same to the last digit."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class CheckedNumber:
    """One number, claimed and measured.

    Attributes:
        cell: what it is of, in words.
        what: its name.
        claimed, measured: None where there is none.
        tolerance: by which they may differ.
        note: where numbers do not say it all.
    """

    cell: str
    what: str
    claimed: float | None
    measured: float | None
    tolerance: float
    note: str = ""

    @property
    def difference(self) -> float:
        """Measured less claimed; 0 where both are missing, infinite where one is."""
        if self.claimed is None or self.measured is None:
            return 0.0 if self.claimed is self.measured else float("inf")
        return self.measured - self.claimed

    @property
    def ok(self) -> bool:
        """Whether they agree."""
        return abs(self.difference) <= self.tolerance


@dataclass
class Verdict:
    """What came of looking at a bundle.

    Attributes:
        kind, name: of the submission.
        lines: claimed beside measured.
        looked: what was done, in words.
        open: what was not, in words.
        standings: of images, beside the rows that the board lists.
    """

    kind: str
    name: str
    lines: list[CheckedNumber] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    standings: list[BoardStanding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all that was looked at is as claimed."""
        return all(line.ok for line in self.lines)


def verify(
    path: Path,
    root: Path | None = None,
    run_code: bool = False,
    limits: Limits | None = None,
    tell: Tell = lambda _: None,
    board: Path = Path("results"),
) -> Verdict:
    """Measure a bundle anew.

    Args:
        path: of the bundle.
        root: of a data set that is not embedded.
        run_code: whether an attack's own code may run, in a process with limits.
        limits: of that process.
        tell: told of what is done.
        board: results whose row images are set beside.

    Raises:
        UserError: for a bundle that is refused, in one line.
    """
    with opened(path) as bundle:
        return _Verifier(bundle, root, tell, board).verdict(run_code, limits or Limits())


class _Verifier:
    """One bundle that is being looked at."""

    def __init__(self, bundle: Bundle, root: Path | None, tell: Tell, board: Path) -> None:
        self.bundle, self.root, self.tell, self.board = bundle, root, tell, board
        self.manifest = bundle.manifest
        self.claims = self.manifest.claims
        own = {"images": "attack"}.get(self.manifest.kind, self.manifest.kind)
        self.cells = [checked_cell(claim.cell, {own: self.manifest.name}) for claim in self.claims]
        self.found = Verdict(self.manifest.kind, self.manifest.name)
        self._arenas: dict[tuple[str, int], Evaluator] = {}
        here = provenance()["versions"]
        for package in ("iqarena", "torch"):
            if (said := self.manifest.versions.get(package)) != here[package]:
                self.found.open.append(f"it was made with {package} {ascii(said)[:40]}, and here is {here[package]}")
        if len({claim.cell_id for claim in self.claims}) < len(self.claims):
            raise UserError(f"{bundle.path}: a cell is claimed twice")

    def verdict(self, run_code: bool, limits: Limits) -> Verdict:
        """See `verify`."""
        whole = self.manifest.kind == "images"
        if self.manifest.kind == "defense":
            with self._weights():
                self._look(whole)
                self._measure_defense()
        else:
            self._look(whole)
        if self.manifest.kind == "attack":
            if run_code:
                self._run_code(limits)
            else:
                self.found.open.append("its code was not run; --run-code does that, in a process with limits")
        return self.found

    def _arena(self, cell: Cell, claim: CellClaim) -> Evaluator:
        key = (cell.dataset, claim.n_images)
        if key not in self._arenas:
            dataset = open_dataset(cell.dataset, self.root)
            if claim.n_images > len(dataset.samples):
                raise UserError(f"{claim.n_images} images are claimed, and {cell.dataset} has {len(dataset.samples)}")
            if dataset.fingerprint != claim.fingerprint:
                raise UserError(f"{cell.dataset}: the images or labels here are not those of the claim; another version?")
            self._arenas[key] = Evaluator(dataset, claim.n_images, 16)
        return self._arenas[key]

    def _look(self, whole: bool) -> None:
        """Rows against measures, stored images against threat model and rows."""
        images, whole_cells = 0, []
        for cell, claim in zip(self.cells, self.claims, strict=True):
            self.tell(_words(cell))
            evaluator = self._arena(cell, claim)
            rows, pixels = self._rows(evaluator, claim), self._images(evaluator, claim)
            if whole and len(pixels) != claim.n_images:
                raise UserError(f"{self.bundle.path}: has {len(pixels)} of {claim.n_images} images")
            own = measure_cell(rows)
            self._compare(cell, claim, own, 1e-6, "its own rows say otherwise", quiet=True)
            if pixels:
                with _told():
                    anew = rescored(evaluator, cell, pixels)
                self._compare_images(cell, rows, anew)
                if whole:
                    measured = measure_cell(anew)
                    self._compare(cell, claim, measured, SAME_RANKS)
                    whole_cells.append((cell, claim, list(anew.image_id), measured))
            images += len(pixels)
        for cell, claim, image_ids, measured in whole_cells:
            stands = standing(self.board, cell, image_ids, claim.measures, measured, self.found.ok)
            if isinstance(stands, BoardStanding):
                self.found.standings.append(stands)
            else:
                self.found.open.append(stands)
        cells = f"{len(self.cells)} cell{'s' * (len(self.cells) != 1)}"
        self.found.looked.append(f"{cells} and {images} images, pixel by pixel against the threat model, scored anew")

    def _rows(self, evaluator: Evaluator, claim: CellClaim) -> pd.DataFrame:
        """The rows that a cell claims, which are of the images of its data set."""
        name = f"records/{claim.cell_id}/images.csv"
        try:
            rows = read_images(io.StringIO(self.bundle.text(name)))[IMAGE_COLUMNS]
        except (ValueError, KeyError, OverflowError) as error:
            raise UserError(f"{self.bundle.path}: {name} is no images.csv ({str(error)[:100]!r})") from None
        wanted = [(sample.image_id, sample.reference_id, sample.mos) for sample in evaluator.samples]
        same = len(rows) == len(wanted) and list(rows.image_id) == [image_id for image_id, _, _ in wanted]
        same = same and list(rows.reference_id) == [reference for _, reference, _ in wanted]
        if not same or not np.allclose(rows.mos, [mos for _, _, mos in wanted], atol=1e-6, equal_nan=True):
            raise UserError(f"{self.bundle.path}: {name} has other images or labels than the data set")
        if (rows[["clean_quality", "adv_quality"]].abs() > np.finfo(np.float32).max).any(axis=None):
            raise UserError(f"{self.bundle.path}: {name} holds qualities that no float32 score can be")
        return rows

    def _images(self, evaluator: Evaluator, claim: CellClaim) -> list[torch.Tensor]:
        """The attacked images that are there: the first ones, or all."""
        names = self.bundle.names(f"images/{claim.cell_id}")
        if names != [f"images/{claim.cell_id}/{place:05d}.png" for place in range(len(names))]:
            raise UserError(f"{self.bundle.path}: images/{claim.cell_id} are not numbered from 00000.png on")
        if len(names) > claim.n_images:
            raise UserError(f"{self.bundle.path}: images/{claim.cell_id} has more images than the data set")
        return [self.bundle.image(name, *size) for name, size in zip(names, evaluator.images.sizes, strict=False)]

    def _compare(
        self, cell: Cell, claim: CellClaim, measured: dict[str, float], tolerance: float, note: str = "", quiet: bool = False
    ) -> None:
        for name in CLAIMED:
            value = measured[name]
            line = CheckedNumber(
                _words(cell), name, claim.measures.get(name), value if np.isfinite(value) else None, tolerance, note
            )
            if not (quiet and line.ok):
                self.found.lines.append(line)

    def _compare_images(self, cell: Cell, claimed: pd.DataFrame, anew: pd.DataFrame) -> None:
        self._count_outside(cell, anew)
        first = claimed.iloc[: len(anew)]
        for column in ("clean_quality", "adv_quality"):
            gap = (first[column] - anew[column]).abs()
            worst = int(gap.fillna(np.inf).to_numpy().argmax())
            values = [float(table[column].iloc[worst]) for table in (first, anew)]
            told = [value if np.isfinite(value) else None for value in values]
            note = f"farthest apart of {len(anew)}: {anew.image_id.iloc[worst]}"
            self.found.lines.append(CheckedNumber(_words(cell), column, told[0], told[1], SAME_QUALITY, note))

    def _count_outside(self, cell: Cell, anew: pd.DataFrame, note: str = "") -> None:
        outside = int((anew.status != "ok").sum())
        self.found.lines.append(CheckedNumber(_words(cell), f"outside {cell.norm} {cell.eps:.4g}", 0, outside, 0, note))

    # --- a defense's weights

    def _weights(self) -> AbstractContextManager[None]:
        """A context in which the weights of a bundle stand behind its name."""
        plugin = self.manifest.plugin
        if plugin is None or (plugin.file, plugin.made) != ("weights.safetensors", "_"):
            raise UserError(f"{self.bundle.path}: a defense comes as weights.safetensors, with the recipe that made them")
        listed("model", plugin.model)
        if {(cell.model, cell.defense) for cell in self.cells} != {(plugin.model, self.manifest.name)}:
            raise UserError(f"{self.bundle.path}: its cells are of another model or defense than its weights")
        return _behind(self.bundle, self.manifest.name, plugin.recipe)

    def _measure_defense(self) -> None:
        """All cells again, by attacks of this project: nothing in the bundle is code."""
        measured: list[dict[str, float]] = []
        for limit, group in self._groups():
            with tempfile.TemporaryDirectory(prefix="iqarena-verify-") as folder:
                records = Records(Path(folder))
                outcome = execute(suite_of([cell for cell, _ in group], limit), self.root, records, self._report)
                if outcome.skipped:
                    raise UserError(f"{self.bundle.path}: {outcome.skipped[0][1]}")
                by_cell = {self._key(Cell(**record["cell"])): record for record in records.all()}
                for cell, claim in group:
                    record = by_cell.get(self._key(cell))
                    if record is None:
                        raise UserError(f"{_words(cell)}: no suite makes this cell")
                    if record["status"] != "ok":
                        raise UserError(f"{_words(cell)}: {record['status']} {(record['errors'] or [''])[0]}")
                    measured.append({name: np.nan if (v := record["measures"][name]) is None else v for name in CLAIMED})
                    self._compare(cell, claim, measured[-1], SAME_RUN)
        said = [value for claim in self.claims if (value := claim.measures.get("srocc_adv")) is not None]
        found = [value for one in measured if np.isfinite(value := one["srocc_adv"])]
        robust = CheckedNumber("all cells", "robust SROCC", min(said, default=None), min(found, default=None), SAME_RUN)
        self.found.lines.append(robust)
        names = sorted({cell.attack for cell in self.cells})
        self.found.looked.append(f"attacked anew by {', '.join(names)}")

    def _groups(self) -> Iterator[tuple[int, list[tuple[Cell, CellClaim]]]]:
        """Cells that one suite can hold, with the images that they are on."""
        groups: dict[tuple[object, ...], list[tuple[Cell, CellClaim]]] = {}
        for cell, claim in zip(self.cells, self.claims, strict=True):
            key = (claim.n_images, cell.dataset, cell.seed, cell.draws, cell.precision)
            groups.setdefault(key, []).append((cell, claim))
        for group in groups.values():
            yield group[0][1].n_images, group

    @staticmethod
    def _key(cell: Cell) -> str:
        return json.dumps(cell.parts, sort_keys=True)

    def _report(self, event: str, cell: Cell | None, done: int, to_do: int, words: str) -> None:
        if event == "start" and cell is not None:
            self.tell(f"{done + 1}/{to_do} {_words(cell)}")

    # --- an attack's code

    def _run_code(self, limits: Limits) -> None:
        """All cells again, by the code of the bundle in a process with limits; its images are judged here."""
        plugin = self.manifest.plugin
        if plugin is None or not plugin.file.startswith("source/") or not plugin.file.endswith(".py"):
            raise UserError(f"{self.bundle.path}: an attack comes as one file in source/")
        with tempfile.TemporaryDirectory(prefix="iqarena-verify-") as name:
            folder = Path(name).resolve()
            source = folder / "submitted.py"
            source.write_bytes(self.bundle.read(plugin.file))
            task = {
                "file": str(source),
                "made": plugin.made,
                "name": self.manifest.name,
                "root": str(self.root.resolve()) if self.root else "",
                "groups": [],
            }
            for limit, group in self._groups():
                cells = [{"folder": str(folder / "made" / claim.cell_id), "cell": cell.parts} for cell, claim in group]
                task["groups"].append({"limit": limit, "cells": cells})  # type: ignore[attr-defined]
            (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
            for evaluator in self._arenas.values():
                if isinstance(evaluator.dataset, Demo):  # a copy, as what is linked could be written to
                    kept = evaluator.dataset.folder
                    shutil.copytree(kept, folder / "cache" / kept.name, dirs_exist_ok=True)
            self.tell(f"runs {plugin.file} in a process with limits")
            run(
                "iqarena.bench.submission.sandboxed_attack",
                [str(folder / "task.json")],
                folder,
                limits,
                torch.get_num_threads(),
            )
            for cell, claim in zip(self.cells, self.claims, strict=True):
                evaluator = self._arena(cell, claim)
                made = folder / "made" / claim.cell_id
                pixels = [
                    decoded(_regular(made / f"{place:05d}.png", limits), f"{claim.cell_id}/{place:05d}.png", *size)
                    for place, size in enumerate(evaluator.images.sizes)
                ]
                with _told():
                    anew = rescored(evaluator, cell, pixels)
                self._count_outside(cell, anew, "run anew")
                self._compare(cell, claim, measure_cell(anew), SAME_RUN, "run anew")
        self.found.looked.append("its code was run in a process with limits, and the images that it made were judged here")


@contextmanager
def _behind(bundle: Bundle, name: str, recipe: str) -> Iterator[None]:
    """Weights of a bundle behind a name in the registry, as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="iqarena-verify-") as folder:
        for member in ("weights.safetensors", "weights.yaml"):
            (Path(folder) / member).write_bytes(bundle.read(member))
        DEFENSES.add(name, brought(name, recipe, Path(folder) / "weights.safetensors"))
        try:
            yield
        finally:
            DEFENSES.entries.pop(name, None)


@contextmanager
def _told() -> Iterator[None]:
    """What keeps a cell from being scored is one line."""
    try:
        yield
    except CannotRun as error:
        raise UserError(str(error)) from None


def _regular(file: Path, limits: Limits) -> bytes:
    """The content of a file that somebody else's code has written: no link, no device, not too large."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"its code did not leave {file.parent.name}/{file.name} ({error.strerror})") from None
    with os.fdopen(handle, "rb") as opened_file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserError(f"its code left {file.parent.name}/{file.name} that is no file")
        return opened_file.read(limits.file_mib << 20)


def _words(cell: Cell) -> str:
    return f"{cell.defended}, {cell.attack} {cell.objective} {cell.setting}"
