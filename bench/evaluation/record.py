"""The JSON record of an evaluated cell."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from iqarena.attacks.ensemble import Ensemble
from iqarena.bench.cells import Cell
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.evaluation.certification import Certified
from iqarena.bench.evaluation.crafting import Crafted, seed_of
from iqarena.bench.inference.model_pool import ModelPool
from iqarena.bench.metrics.measures import measure_cell
from iqarena.bench.registry import ATTACKS, DEFENSES
from iqarena.bench.results.provenance import Costs, provenance

STATUSES = ("ok", "violation", "not-finite", "failed")
"""Statuses of an image, from good to bad; the status of a cell is the worst status of its images."""


@dataclass
class CellOutcome:
    """The outcome of running a cell.

    Attributes:
        images: table with one row per image.
        crafting: hash of everything that its attacked images depend on.
        batch, halvings: batch size of the suite, and how often it was halved for lack of memory.
        crafted: the attacked images.
        flags, errors: flags and error messages of the cell.
        speed: seconds per image of the deployed and of the undefended model.
        certified: certificates of the defense, if it gives any.
        purified: how much the defense changes images, if it is a filter; see `iqarena.bench.evaluation.filter_fidelity`.
        seconds: wall time, including the work that is shared with other cells.
        spent: resources of this process that the cell used.
    """

    images: pd.DataFrame
    crafting: str
    batch: int | str
    halvings: int = 0
    crafted: Crafted | None = None
    flags: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    speed: tuple[float, float] = (math.nan, math.nan)
    certified: Certified | None = None
    purified: dict[str, float] | None = None
    seconds: float = math.nan
    spent: Costs = field(default_factory=Costs)

    def fail(self, reason: str) -> None:
        """Mark all images as failed, for a reason."""
        self.errors.append(reason)
        self.images["status"] = "failed"


def record_of(outcome: CellOutcome, cell: Cell, cell_id: str, pool: ModelPool, dataset: ImageDataset) -> dict[str, Any]:
    """Build the JSON record of an evaluated cell.

    Args:
        outcome: the outcome of running the cell.
        cell, cell_id: the cell and its id.
        pool, dataset: the models and the data set of the run.
    """
    images, crafted, engine = outcome.images, outcome.crafted, pool.engine
    record = {
        "cell_id": cell_id,
        "cell": cell.parts,
        "status": max(images.status, key=STATUSES.index),
        "errors": sorted(set(outcome.errors)),
        "n_images": len(images),
        "measures": measure_cell(images) | (outcome.certified.measures(images) if outcome.certified else {}),
        "costs": _costs(images) | {"seconds": outcome.seconds},
        "flags": outcome.flags,
        **_parts(cell, crafted, pool, dataset),
        "score_seconds_an_image": dict(zip(("defended", "undefended"), outcome.speed, strict=True)),
        "curve": crafted.curve if crafted else {},
        **({"certificate": outcome.certified.facts} if outcome.certified else {}),
        **({"purified": outcome.purified} if outcome.purified else {}),
        "crafting": outcome.crafting,
        "provenance": provenance(engine.device)
        | asdict(outcome.spent)
        | {
            "precision": {"scores": "float32", "gradients": cell.precision},
            "compiled": engine.compile,
            "batch": outcome.batch,
            "halvings": outcome.halvings,
            "seeds": {"suite": cell.seed, "first_image": seed_of(cell.crafting, str(images.image_id[0]))},
        },
    }
    return dict(_without_nan(record))


def _parts(cell: Cell, crafted: Crafted | None, pool: ModelPool, dataset: ImageDataset) -> dict[str, Any]:
    """Describe the attack, the defense, the model and the data set of a cell."""
    attack, defense = ATTACKS.build(cell.attack), DEFENSES.build(cell.defense)
    model, deployed = pool.info(cell.model, "none"), pool.info(cell.model, cell.defense)
    return {
        "attack": {
            "access": attack.access,
            "control": attack.control,
            "ensemble": isinstance(attack, Ensemble),
            "paper": attack.paper,
            "fits": crafted.fits if crafted else [],
            **_parameters(attack),
        },
        "defense": {
            "kind": defense.kind,
            "stochastic": defense.stochastic,
            "surrogate": defense.surrogate_kind,
            "paper": defense.paper,
            "weights_sha256": deployed.weights_sha256,
            **_parameters(defense),
        },
        "model": {"paper": model.paper, "weights_sha256": model.weights_sha256, "score_range": list(model.score_range)},
        "dataset": {"label_kind": dataset.label_kind, "fingerprint": dataset.fingerprint},
    }


def _parameters(plugin: object) -> dict[str, Any]:
    return {"parameters": asdict(plugin)} if is_dataclass(plugin) and not isinstance(plugin, type) else {}


def _costs(images: pd.DataFrame) -> dict[str, float]:
    attacked = images[images.status != "failed"]
    return {
        "linf_max": float(attacked.linf.max()),
        "psnr_mean": float(attacked.psnr.mean()),
        "ssim_mean": float(attacked.ssim.mean()),
        "ms_ssim_mean": float(attacked.ms_ssim.mean()),
        "forwards_mean": float(images.forwards.mean()),
        "backwards_mean": float(images.backwards.mean()),
    }


def _without_nan(value: Any) -> Any:
    """Replace NaN and infinities by None, since JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
