"""Python interface: evaluate a model, also one of your own, under attacks and defenses in one call."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from iqarena.attacks.objective import Kind
from iqarena.bench.cells import expand
from iqarena.bench.code_hash import source_hash
from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.results.report import Report
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Setting, Suite, validated
from iqarena.models.base import Custom, ModelInfo, QualityModel


def evaluate(
    model: str | QualityModel | nn.Module,
    attacks: Sequence[str] = ("pgd", "score-reflection", "score-reflection-away"),
    dataset: str | ImageDataset = "demo",
    *,
    defenses: Sequence[str] = ("none",),
    eps: float | str | Sequence[float | str] = "2/255",
    settings: Sequence[Setting] = ("adaptive",),
    transfer_from: Sequence[str] = (),
    objectives: Sequence[Kind] | None = None,
    limit: int | None = 72,
    score_range: tuple[float, float] = (0.0, 1.0),
    higher_is_better: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
) -> Report:
    """Evaluate one model under attacks and defenses.

    Args:
        model: a registry name, a `QualityModel`, or any ``nn.Module`` from RGB images (N, 3, H, W) in [0, 1] to scores
            (N,) or (N, 1).
        attacks, defenses: names, with parameters as in ``pgd[steps=40]``.
        dataset: a registry name or a data set.
        eps: size of the ℓ∞ ball in pixel units of [0, 1], or several; a number or a fraction such as ``"2/255"``.
        settings: knowledge of the attacker: "oblivious", "adaptive" or "transfer".
        transfer_from: names of undefended models on which the attacks are crafted too.
        objectives: objectives of the attacks; the usual objective of each attack if left out.
        limit: maximal number of images.
        score_range, higher_is_better: properties of an ``nn.Module``; a `QualityModel` declares its own.
        seed: random seed.
        out: results folder to keep and resume from; a temporary one if left out.

    Returns:
        One row per cell, with the columns of summary.csv; its attributes hold the images, the ranking, flags, curves and
        transfers of these cells, see `iqarena.bench.results.report.Report`. Invalid combinations (a defense that does not
        fit the model) are left out.

    Raises:
        iqarena.bench.errors.UserError: for errors that the caller can fix.

    Example:
        >>> from iqarena import evaluate
        >>> report = evaluate("cnniqa", attacks=["random-noise"], limit=4)
        >>> float(report.linf_max[0]) <= 2 / 255
        True
    """
    extra: dict[str, QualityModel] = {}
    if isinstance(model, str):
        name = model
    else:
        name, quality_model = _named(model, score_range, higher_is_better)
        extra[name] = quality_model
    sizes = [eps] if isinstance(eps, str | float | int) else list(eps)
    attack_entries = [{"attack": attack, "objectives": list(objectives) if objectives else None} for attack in attacks]
    suite: Suite = validated(
        {
            "models": [name],
            "defenses": list(defenses),
            "attacks": attack_entries,
            "threats": [{"eps": size} for size in sizes],
            "settings": list(settings),
            "transfer_from": list(transfer_from),
            "limit": limit,
            "seed": seed,
            "dataset": dataset if isinstance(dataset, str) else dataset.name,
        }
    )
    opened = open_dataset(dataset) if isinstance(dataset, str) else dataset
    evaluator = Evaluator(opened, suite.limit, suite.batch, extra)
    with tempfile.TemporaryDirectory() as scratch:
        records = Records(Path(out) if out else Path(scratch))
        outcome = local.run(evaluator, expand(suite), records, report=lambda *_: None)
        if outcome.skipped and not outcome.cell_ids:
            raise UserError(outcome.skipped[0][1])
        return Report.of(records, outcome.cell_ids)


def _named(model: nn.Module, score_range: tuple[float, float], higher_is_better: bool) -> tuple[str, QualityModel]:
    """Return the name and the model, fingerprinted by weights and code so that it reuses no records of other models."""
    quality_model = (
        copy.copy(model)
        if isinstance(model, QualityModel)
        else Custom(model, ModelInfo(type(model).__name__, score_range, higher_is_better, min_size=1))
    )
    fingerprint = hashlib.sha256(source_hash(model).encode())
    for key, value in quality_model.state_dict().items():
        fingerprint.update(key.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    quality_model.info = replace(quality_model.info, weights_sha256=fingerprint.hexdigest())
    return quality_model.info.name, quality_model
