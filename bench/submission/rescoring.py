"""Check the cells that a submission claims, and score its attacked images again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import field as dataclass_field
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter, ValidationError

from iqarena.bench.cells import Cell, digest
from iqarena.bench.datasets import dataset_class
from iqarena.bench.errors import UserError, first_message
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.evaluation.judge import inside_threat
from iqarena.bench.metrics.image_distances import distances
from iqarena.bench.registry import DEFENSES, NAME, REGISTRIES, links, parse_spec
from iqarena.bench.results.columns import IMAGE_COLUMNS
from iqarena.bench.suite import Suite, validated
from iqarena.defenses.base import TrainedDefense

CLAIMED = ("srocc_clean", "srocc_adv", "stability_srocc", "reflection_rate", "abs_gain")
"""Measures that a bundle claims of a cell."""

_PLAIN = re.compile(r"[A-Za-z0-9_:.,=+\[\] -]{1,300}")
_SUBMITTED = re.compile(r"[\w:.,=+\[\]/ -]{1,300}")
_CELL = TypeAdapter(Cell)


def checked_cell(claimed: Mapping[str, Any], submitted: Mapping[str, str] | None = None) -> Cell:
    """Build a cell from untrusted data, in which every name has to be in a registry.

    Args:
        claimed: the fields of a cell.
        submitted: names of plugins in the submission itself, by kind, which need not be in a registry.

    Raises:
        UserError: for fields that form no valid cell, and for names that are not listed or that would open a file.
    """
    if unknown := set(claimed) - {field.name for field in fields(Cell)}:
        raise UserError(f"no cell: it has no {sorted(unknown)[0][:80]!r}")
    try:
        cell = _CELL.validate_python(dict(claimed))
        _ = cell.threat
    except ValidationError as error:
        raise UserError(f"no cell: {': '.join(first_message(error))}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"no cell: {error}") from None
    if not 0 <= cell.seed < 2**63 or not 1 <= cell.draws <= 10_000 or not math.isfinite(cell.target):
        raise UserError("no cell: seed and draws must be at least 0 and 1, and the target a finite number")
    if cell.queries is not None and cell.queries >= 2**63:
        raise UserError("no cell: its limit of queries is beyond 64 bits")
    if (cell.setting == "transfer") != bool(cell.source) or cell.source == cell.model:
        raise UserError("no cell: a source is the other model that a transfer is crafted on")
    named = {"model": cell.model, "defense": cell.defense, "attack": cell.attack}
    for kind, spec in named.items():
        if not _SUBMITTED.fullmatch(spec):  # before it is parsed
            raise UserError(f"{kind} {spec[:80]!r}: is no name of letters, digits, spaces and :.,=+[]/-")
        if len(links(spec)) > 1 or (submitted or {}).get(kind) != parse_spec(spec)[0]:
            check_listed(kind, spec)
    if cell.source:
        check_listed("model", cell.source)
    _plain("data set", cell.dataset)
    dataset_class(cell.dataset)
    return cell


def check_listed(kind: str, spec: str) -> None:
    """Check that a spec names an entry of a registry and no file.

    Raises:
        UserError: where it does not.
    """
    _plain(kind, spec)
    for link in links(spec) if kind == "defense" else [spec]:
        name, parameters = parse_spec(link)
        if name.startswith("file:") or (kind == "model" and ":" in name) or {"weights", "variant"} & set(parameters):
            raise UserError(f"{kind} {spec!r}: only what is listed can be submitted to, not a file of yours")
        REGISTRIES[kind].find(name)


def _plain(kind: str, spec: str) -> None:
    if not _PLAIN.fullmatch(spec):
        raise UserError(f"{kind} {spec[:80]!r}: only what is listed can be submitted to, not a file of yours")


def rescore(evaluator: Evaluator, cell: Cell, pixels: Sequence[torch.Tensor]) -> pd.DataFrame:
    """Compute the rows of images.csv for the first N images of a data set, from stored pixels alone.

    Args:
        evaluator: evaluator of the data set.
        cell: the cell of the images.
        pixels: attacked images (3, H, W) uint8, with the sizes of the clean ones.
    """
    samples = evaluator.samples[: len(pixels)]
    clean = [evaluator.images[index] for index in range(len(pixels))]
    inside = [bool(inside_threat(a[None], b[None], cell.threat)) for a, b in zip(pixels, clean, strict=True)]
    table = pd.DataFrame(
        {
            "image_id": [s.image_id for s in samples],
            "reference_id": [s.reference_id for s in samples],
            "mos": [s.mos for s in samples],
            "clean_quality": evaluator.scorer.clean(cell.model, cell.defense, cell.seed)[: len(pixels)].numpy(),
            "adv_quality": evaluator.scorer.score(cell.model, cell.defense, pixels, digest(cell.crafting, "adv")).numpy(),
            "undefended_clean_quality": evaluator.scorer.clean(cell.model, "none", cell.seed)[: len(pixels)].numpy(),
            "status": np.where(inside, "ok", "violation"),
        }
    )
    perturbations = pd.DataFrame([distances(a[None], b[None]).iloc[0] for a, b in zip(pixels, clean, strict=True)])
    return pd.concat([table, perturbations.reset_index(drop=True)], axis=1).reindex(columns=IMAGE_COLUMNS)


def suite_of(cells: Sequence[Cell], limit: int) -> Suite:
    """Return the suite that has these cells.

    Raises:
        UserError: where no single suite has them all.
    """
    shared = {(cell.dataset, cell.seed, cell.draws, cell.precision) for cell in cells}
    if len(shared) > 1:
        raise UserError("its cells differ in data set, seed, draws or precision; submit the results of one suite")
    dataset, seed, draws, precision = shared.pop()
    first, *others = [
        {
            "models": [cell.model],
            "defenses": [cell.defense],
            "attacks": [{"attack": cell.attack, "objectives": [cell.objective], "target": cell.target}],
            "threats": [{"norm": cell.norm, "eps": cell.eps, "queries": cell.queries}],
            "settings": [cell.setting],
            "transfer_from": [cell.source] if cell.source else [],
        }
        for cell in cells
    ]
    common = {"dataset": dataset, "limit": limit, "seed": seed, "draws": draws, "precision": precision}
    return validated({**common, **first, "parts": others})


def defense_with_weights(name: str, recipe: str, weights: Path) -> type[TrainedDefense]:
    """Build a defense class with its own registry name from a training recipe and submitted weights.

    Seeds then depend on the name, not on the path of the file.

    Raises:
        UserError: where it is not a training recipe, or the name is taken.
    """
    check_listed("defense", recipe)
    defense = DEFENSES.build(recipe)
    if not isinstance(defense, TrainedDefense):
        raise UserError(f"{recipe} is no training recipe; weights can be submitted for what `iqarena train --defense` makes")
    entry = DEFENSES.entry(name)
    if not NAME.fullmatch(name) or (entry is not None and entry.cls is not None and "recipe" not in vars(entry.cls)):
        raise UserError(f"defense {name!r}: taken, or no name of small letters, digits and dashes; choose another --name")
    with_weights = replace(defense, weights=str(weights))
    values = [(f.name, Any, dataclass_field(default=getattr(with_weights, f.name))) for f in fields(defense) if f.init]
    namespace = {"name": name, "recipe": recipe, "__module__": type(defense).__module__}
    return make_dataclass(type(defense).__name__, values, bases=(type(defense),), namespace=namespace, frozen=True)
