"""What is said of a cell that was run: its record."""

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
"""Of an image, from good to bad; a cell has the worst of its images'."""


@dataclass
class CellOutcome:
    """What came of running a cell.

    Attributes:
        images: a row an image.
        crafting: hash of what its attacked images depend on.
        batch, halvings: images at once as the suite wants it, and how often they were halved as memory was short.
        crafted: the attacked images.
        flags, errors: of the cell.
        speed: seconds an image of the deployed and of the undefended model.
        certified: what the defense certifies, if it is one that does.
        purified: what the defense makes of images, if it is a filter; see `iqarena.bench.evaluation.filter_fidelity`.
        seconds: wall time, what it shares with other cells included.
        spent: what it took of this process.
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
        """No image of it counts."""
        self.errors.append(reason)
        self.images["status"] = "failed"


def record_of(ran: CellOutcome, cell: Cell, cell_id: str, pool: ModelPool, dataset: ImageDataset) -> dict[str, Any]:
    """The record of a cell, as JSON can hold it.

    Args:
        ran: what came of it.
        cell, cell_id: which.
        pool, dataset: what it was run with.
    """
    images, crafted, engine = ran.images, ran.crafted, pool.engine
    record = {
        "cell_id": cell_id,
        "cell": cell.parts,
        "status": max(images.status, key=STATUSES.index),
        "errors": sorted(set(ran.errors)),
        "n_images": len(images),
        "measures": measure_cell(images) | (ran.certified.measures(images) if ran.certified else {}),
        "costs": _costs(images) | {"seconds": ran.seconds},
        "flags": ran.flags,
        **_parts(cell, crafted, pool, dataset),
        "score_seconds_an_image": dict(zip(("defended", "undefended"), ran.speed, strict=True)),
        "curve": crafted.curve if crafted else {},
        **({"certificate": ran.certified.facts} if ran.certified else {}),
        **({"purified": ran.purified} if ran.purified else {}),
        "crafting": ran.crafting,
        "provenance": provenance(engine.device)
        | asdict(ran.spent)
        | {
            "precision": {"scores": "float32", "gradients": cell.precision},
            "compiled": engine.compile,
            "batch": ran.batch,
            "halvings": ran.halvings,
            "seeds": {"suite": cell.seed, "first_image": seed_of(cell.crafting, str(images.image_id[0]))},
        },
    }
    made: dict[str, Any] = _without_nan(record)
    return made


def _parts(cell: Cell, crafted: Crafted | None, pool: ModelPool, dataset: ImageDataset) -> dict[str, Any]:
    """What a reader of the record wants to know of what the cell was made of."""
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
    made = images[images.status != "failed"]
    return {
        "linf_max": float(made.linf.max()),
        "psnr_mean": float(made.psnr.mean()),
        "ssim_mean": float(made.ssim.mean()),
        "ms_ssim_mean": float(made.ms_ssim.mean()),
        "forwards_mean": float(images.forwards.mean()),
        "backwards_mean": float(images.backwards.mean()),
    }


def _without_nan(value: Any) -> Any:
    """NaN is not JSON: missing becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
