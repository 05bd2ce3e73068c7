"""`iqarena verify`: measure a submission again and compare the results with its claims."""

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
from iqarena.bench.results.columns import IMAGE_COLUMNS, read_images
from iqarena.bench.results.flags import SAME_QUALITY
from iqarena.bench.results.provenance import provenance
from iqarena.bench.results.store import Records
from iqarena.bench.submission.bundle import Bundle, CellClaim, decode_png, open_bundle
from iqarena.bench.submission.rescoring import CLAIMED, check_listed, checked_cell, defense_with_weights, rescore, suite_of
from iqarena.bench.submission.sandbox import Limits, run
from iqarena.bench.submission.standing import SAME_RANKS, BoardStanding, standing

SAME_RUN = 0.05
"""Tolerance of a measure when the attack is run again: on another processor its steps round differently, and the difference
grows from step to step. On the machine of the claim the measure is the same to the last digit."""

Notify = Callable[[str], None]


@dataclass(frozen=True)
class CheckedNumber:
    """One number, claimed and measured.

    Attributes:
        cell: description of its cell.
        what: its name.
        claimed, measured: its values; None where there is none.
        tolerance: largest allowed difference.
        note: remark for the reader.
    """

    cell: str
    what: str
    claimed: float | None
    measured: float | None
    tolerance: float
    note: str = ""

    @property
    def difference(self) -> float:
        """Measured minus claimed; 0 where both are missing, infinite where one is."""
        if self.claimed is None or self.measured is None:
            return 0.0 if self.claimed is self.measured else float("inf")
        return self.measured - self.claimed

    @property
    def ok(self) -> bool:
        """Whether they agree."""
        return abs(self.difference) <= self.tolerance


@dataclass
class Verdict:
    """The result of verifying a bundle.

    Attributes:
        kind, name: kind and name of the submission.
        numbers: claimed and measured values.
        checked: descriptions of the checks that were made.
        unchecked: descriptions of what was not checked.
        standings: submitted images compared with the rows that the board lists.
    """

    kind: str
    name: str
    numbers: list[CheckedNumber] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    standings: list[BoardStanding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was checked is as claimed."""
        return all(number.ok for number in self.numbers)


def verify(
    path: Path,
    root: Path | None = None,
    run_code: bool = False,
    limits: Limits | None = None,
    notify: Notify = lambda _: None,
    board: Path = Path("results"),
) -> Verdict:
    """Measure a bundle again.

    Args:
        path: path of the bundle.
        root: folder of a data set that is not embedded.
        run_code: whether an attack's own code may run, in a process with limits.
        limits: limits of that process.
        notify: called with a description of each step.
        board: results folder of the board, whose rows submitted images are compared with.

    Raises:
        UserError: for a bundle that is refused, with a message of one line.
    """
    with open_bundle(path) as bundle:
        return _Verifier(bundle, root, notify, board).verify(run_code, limits or Limits())


class _Verifier:
    """The verification of one bundle."""

    def __init__(self, bundle: Bundle, root: Path | None, notify: Notify, board: Path) -> None:
        self.bundle, self.root, self.notify, self.board = bundle, root, notify, board
        self.manifest = bundle.manifest
        self.claims = self.manifest.claims
        submitted = {"images": "attack"}.get(self.manifest.kind, self.manifest.kind)
        self.cells = [checked_cell(claim.cell, {submitted: self.manifest.name}) for claim in self.claims]
        self.verdict = Verdict(self.manifest.kind, self.manifest.name)
        self._evaluators: dict[tuple[str, int], Evaluator] = {}
        here = provenance()["versions"]
        for package in ("iqarena", "torch"):
            if (version := self.manifest.versions.get(package)) != here[package]:
                self.verdict.unchecked.append(
                    f"it was made with {package} {ascii(version)[:40]}, and here is {here[package]}"
                )
        if len({claim.cell_id for claim in self.claims}) < len(self.claims):
            raise UserError(f"{bundle.path}: a cell is claimed twice")

    def verify(self, run_code: bool, limits: Limits) -> Verdict:
        """See the function `verify`."""
        all_images = self.manifest.kind == "images"
        if self.manifest.kind == "defense":
            with self._weights():
                self._check_cells(all_images)
                self._measure_defense()
        else:
            self._check_cells(all_images)
        if self.manifest.kind == "attack":
            if run_code:
                self._run_code(limits)
            else:
                self.verdict.unchecked.append("its code was not run; --run-code does that, in a process with limits")
        return self.verdict

    def _evaluator(self, cell: Cell, claim: CellClaim) -> Evaluator:
        key = (cell.dataset, claim.n_images)
        if key not in self._evaluators:
            dataset = open_dataset(cell.dataset, self.root)
            if claim.n_images > len(dataset.samples):
                raise UserError(f"{claim.n_images} images are claimed, and {cell.dataset} has {len(dataset.samples)}")
            if dataset.fingerprint != claim.fingerprint:
                raise UserError(f"{cell.dataset}: the images or labels here are not those of the claim; another version?")
            self._evaluators[key] = Evaluator(dataset, claim.n_images, 16)
        return self._evaluators[key]

    def _check_cells(self, all_images: bool) -> None:
        """Check the measures against the rows, and the stored images against the threat model and the rows."""
        images, scored = 0, []
        for cell, claim in zip(self.cells, self.claims, strict=True):
            self.notify(_describe(cell))
            evaluator = self._evaluator(cell, claim)
            rows, pixels = self._rows(evaluator, claim), self._images(evaluator, claim)
            if all_images and len(pixels) != claim.n_images:
                raise UserError(f"{self.bundle.path}: has {len(pixels)} of {claim.n_images} images")
            self._compare(cell, claim, measure_cell(rows), 1e-6, "its own rows say otherwise", quiet=True)
            if pixels:
                with _as_user_error():
                    scores = rescore(evaluator, cell, pixels)
                self._compare_images(cell, rows, scores)
                if all_images:
                    measured = measure_cell(scores)
                    self._compare(cell, claim, measured, SAME_RANKS)
                    data_set = (evaluator.dataset.fingerprint, evaluator.content_sha256)
                    scored.append((cell, claim, list(scores.image_id), measured, data_set))
            images += len(pixels)
        for cell, claim, image_ids, measured, data_set in scored:
            result = standing(self.board, cell, image_ids, claim.measures, measured, self.verdict.ok, *data_set)
            if isinstance(result, BoardStanding):
                self.verdict.standings.append(result)
            else:
                self.verdict.unchecked.append(result)
        cells = f"{len(self.cells)} cell{'s' * (len(self.cells) != 1)}"
        self.verdict.checked.append(f"{cells} and {images} images, pixel by pixel against the threat model, scored anew")

    def _rows(self, evaluator: Evaluator, claim: CellClaim) -> pd.DataFrame:
        """Return the claimed rows of a cell, checked against the images of its data set."""
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
        """Return the attacked images in the bundle: the first ones, or all."""
        names = self.bundle.names(f"images/{claim.cell_id}")
        if names != [f"images/{claim.cell_id}/{index:05d}.png" for index in range(len(names))]:
            raise UserError(f"{self.bundle.path}: images/{claim.cell_id} are not numbered from 00000.png on")
        if len(names) > claim.n_images:
            raise UserError(f"{self.bundle.path}: images/{claim.cell_id} has more images than the data set")
        return [self.bundle.image(name, *size) for name, size in zip(names, evaluator.images.sizes, strict=False)]

    def _compare(
        self, cell: Cell, claim: CellClaim, measured: dict[str, float], tolerance: float, note: str = "", quiet: bool = False
    ) -> None:
        for name in CLAIMED:
            value = measured[name]
            number = CheckedNumber(
                _describe(cell), name, claim.measures.get(name), value if np.isfinite(value) else None, tolerance, note
            )
            if not (quiet and number.ok):
                self.verdict.numbers.append(number)

    def _compare_images(self, cell: Cell, claimed: pd.DataFrame, measured: pd.DataFrame) -> None:
        self._count_outside(cell, measured)
        first = claimed.iloc[: len(measured)]
        for column in ("clean_quality", "adv_quality"):
            gap = (first[column] - measured[column]).abs()
            worst = int(gap.fillna(np.inf).to_numpy().argmax())
            values = [float(table[column].iloc[worst]) for table in (first, measured)]
            pair = [value if np.isfinite(value) else None for value in values]
            note = f"farthest apart of {len(measured)}: {measured.image_id.iloc[worst]}"
            self.verdict.numbers.append(CheckedNumber(_describe(cell), column, pair[0], pair[1], SAME_QUALITY, note))

    def _count_outside(self, cell: Cell, rows: pd.DataFrame, note: str = "") -> None:
        outside = int((rows.status != "ok").sum())
        self.verdict.numbers.append(
            CheckedNumber(_describe(cell), f"outside {cell.norm} {cell.eps:.4g}", 0, outside, 0, note)
        )

    # --- a defense's weights

    def _weights(self) -> AbstractContextManager[None]:
        """Return a context in which the name of the submission is registered with the weights of the bundle."""
        plugin = self.manifest.plugin
        if plugin is None or (plugin.file, plugin.made) != ("weights.safetensors", "_"):
            raise UserError(f"{self.bundle.path}: a defense comes as weights.safetensors, with the recipe that made them")
        check_listed("model", plugin.model)
        if {(cell.model, cell.defense) for cell in self.cells} != {(plugin.model, self.manifest.name)}:
            raise UserError(f"{self.bundle.path}: its cells are of another model or defense than its weights")
        return _registered(self.bundle, self.manifest.name, plugin.recipe)

    def _measure_defense(self) -> None:
        """Run all cells again, with attacks of this project: the bundle contains no code."""
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
                        raise UserError(f"{_describe(cell)}: no suite makes this cell")
                    if record["status"] != "ok":
                        raise UserError(f"{_describe(cell)}: {record['status']} {(record['errors'] or [''])[0]}")
                    measured.append({name: np.nan if (v := record["measures"][name]) is None else v for name in CLAIMED})
                    self._compare(cell, claim, measured[-1], SAME_RUN)
        claimed = [value for claim in self.claims if (value := claim.measures.get("srocc_adv")) is not None]
        robust = [value for measures in measured if np.isfinite(value := measures["srocc_adv"])]
        self.verdict.numbers.append(
            CheckedNumber("all cells", "robust SROCC", min(claimed, default=None), min(robust, default=None), SAME_RUN)
        )
        names = sorted({cell.attack for cell in self.cells})
        self.verdict.checked.append(f"attacked anew by {', '.join(names)}")

    def _groups(self) -> Iterator[tuple[int, list[tuple[Cell, CellClaim]]]]:
        """Yield groups of cells that form one suite, with their number of images."""
        groups: dict[tuple[object, ...], list[tuple[Cell, CellClaim]]] = {}
        for cell, claim in zip(self.cells, self.claims, strict=True):
            key = (claim.n_images, cell.dataset, cell.seed, cell.draws, cell.precision)
            groups.setdefault(key, []).append((cell, claim))
        for group in groups.values():
            yield group[0][1].n_images, group

    @staticmethod
    def _key(cell: Cell) -> str:
        return json.dumps(cell.parts, sort_keys=True)

    def _report(self, event: str, cell: Cell | None, done: int, to_do: int, message: str) -> None:
        if event == "start" and cell is not None:
            self.notify(f"{done + 1}/{to_do} {_describe(cell)}")

    # --- an attack's code

    def _run_code(self, limits: Limits) -> None:
        """Run all cells again, with the code of the bundle in a process with limits; score its images in this process."""
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
            for evaluator in self._evaluators.values():
                if isinstance(evaluator.dataset, Demo):  # a copy, since the code could write to linked files
                    images = evaluator.dataset.folder
                    shutil.copytree(images, folder / "cache" / images.name, dirs_exist_ok=True)
            self.notify(f"runs {plugin.file} in a process with limits")
            run(
                "iqarena.bench.submission.sandboxed_attack",
                [str(folder / "task.json")],
                folder,
                limits,
                torch.get_num_threads(),
            )
            for cell, claim in zip(self.cells, self.claims, strict=True):
                evaluator = self._evaluator(cell, claim)
                output = folder / "made" / claim.cell_id
                pixels = [
                    decode_png(_read_regular(output / f"{index:05d}.png", limits), f"{claim.cell_id}/{index:05d}.png", *size)
                    for index, size in enumerate(evaluator.images.sizes)
                ]
                with _as_user_error():
                    scores = rescore(evaluator, cell, pixels)
                self._count_outside(cell, scores, "run anew")
                self._compare(cell, claim, measure_cell(scores), SAME_RUN, "run anew")
        self.verdict.checked.append(
            "its code was run in a process with limits, and the images that it made were judged here"
        )


@contextmanager
def _registered(bundle: Bundle, name: str, recipe: str) -> Iterator[None]:
    """Register a defense with the weights of a bundle under a name while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="iqarena-verify-") as folder:
        for member in ("weights.safetensors", "weights.yaml"):
            (Path(folder) / member).write_bytes(bundle.read(member))
        DEFENSES.add(name, defense_with_weights(name, recipe, Path(folder) / "weights.safetensors"))
        try:
            yield
        finally:
            DEFENSES.entries.pop(name, None)


@contextmanager
def _as_user_error() -> Iterator[None]:
    """Turn the reason why a cell cannot be scored into a user error."""
    try:
        yield
    except CannotRun as error:
        raise UserError(str(error)) from None


def _read_regular(file: Path, limits: Limits) -> bytes:
    """Return the content of a file that untrusted code has written: no link, no device, not too large."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"its code did not leave {file.parent.name}/{file.name} ({error.strerror})") from None
    with os.fdopen(handle, "rb") as opened_file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserError(f"its code left {file.parent.name}/{file.name} that is no file")
        return opened_file.read(limits.file_mib << 20)


def _describe(cell: Cell) -> str:
    return f"{cell.defended}, {cell.attack} {cell.objective} {cell.setting}"
