"""Python interface: evaluate a model, also one of your own, under attacks and defenses in one call."""

from __future__ import annotations

import copy
import math
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from iqarena.attacks.objective import Kind
from iqarena.bench.cells import canonical, expand
from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.executors.progress import CellBar
from iqarena.bench.inference.identity import fingerprint
from iqarena.bench.inference.process_state import settled
from iqarena.bench.results.report import Report
from iqarena.bench.results.store import Records
from iqarena.bench.suite import Setting, Suite, size_hints, validated
from iqarena.models.base import Custom, ModelInfo, QualityModel


def evaluate(
    model: str | QualityModel | nn.Module,
    attacks: str | Sequence[str] = ("pgd", "score-reflection", "score-reflection-away"),
    dataset: str | ImageDataset = "demo",
    *,
    defenses: str | Sequence[str] = ("none",),
    eps: float | str | Sequence[float | str] = "2/255",
    settings: Setting | Sequence[Setting] = ("adaptive",),
    transfer_from: str | Sequence[str] = (),
    objectives: Kind | Sequence[Kind] | None = None,
    limit: int | None = 72,
    score_range: tuple[float, float] = (0.0, 1.0),
    higher_is_better: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    name: str | None = None,
    progress: bool | None = None,
) -> Report:
    """Evaluate one model under attacks and defenses.

    Args:
        model: a registry name, a `QualityModel`, or any ``nn.Module`` from RGB images (N, 3, H, W) in [0, 1] to scores
            (N,) or (N, 1).
        attacks, defenses: names, with parameters as in ``pgd[steps=40]``; one name is a list of one.
        dataset: a registry name or a data set.
        eps: size of the ℓ∞ ball in pixel units of [0, 1], or several; a number or a fraction such as ``"2/255"``.
        settings: knowledge of the attacker: "oblivious", "adaptive" or "transfer".
        transfer_from: names of undefended models on which the attacks are crafted too.
        objectives: objectives of the attacks; the usual objective of each attack if left out.
        limit: maximal number of images.
        score_range, higher_is_better: properties of an ``nn.Module``; a `QualityModel` declares its own.
        seed: random seed.
        out: results folder to keep and resume from; a temporary one if left out.
        name: of the model in tables and on boards; the name of its class if left out. Where `out` holds cells of another
            model of that class, a part of the fingerprint is added, so that each has a row of its own.
        progress: whether to show a progress bar; if left out, in a terminal and in a notebook.

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
    with settled(), tempfile.TemporaryDirectory() as scratch:
        records = Records(Path(out).expanduser().absolute() if out else Path(scratch))
        extra: dict[str, QualityModel] = {}
        if isinstance(model, str):
            if name is not None:
                raise UserError("name is for a model of your own; a model of the registry has its name")
            chosen = model
        else:
            chosen, own = _prepare(model, score_range, higher_is_better, name, records if out else None)
            extra[canonical("model", chosen)] = own
        kinds = _list(objectives, "objectives") if objectives is not None else None
        suite: Suite = validated(
            {
                "models": [chosen],
                "defenses": _list(defenses, "defenses"),
                "attacks": [{"attack": attack, "objectives": kinds} for attack in _list(attacks, "attacks")],
                "threats": [{"eps": size} for size in _sizes(eps)],
                "settings": _list(settings, "settings"),
                "transfer_from": _list(transfer_from, "transfer_from"),
                "limit": limit,
                "seed": seed,
                "dataset": dataset.name if isinstance(dataset, ImageDataset) else dataset,
            },
            lambda location: "evaluate",
        )
        for hint in size_hints(suite):
            warnings.warn(hint, stacklevel=2)
        opened = dataset if isinstance(dataset, ImageDataset) else open_dataset(dataset)
        evaluator = Evaluator(opened, suite.limit, suite.batch, extra)
        with CellBar(progress) as report:
            outcome = local.run(evaluator, expand(suite), records, report)
        if outcome.skipped and not outcome.cell_ids:
            raise UserError(outcome.skipped[0][1])
        if outcome.changed:
            warnings.warn(
                f"{len(outcome.changed)} cells in {records.folder} were of another model than {chosen!r} is now; "
                "they were run anew",
                stacklevel=2,
            )
        return Report.of(records, outcome.cell_ids)


def _list(value: Any, what: str) -> list[Any]:
    """Return a sequence as a list, and one name as a list of one."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        raise UserError(f"{what} must be a name or a list of names, not {value!r}")
    return list(value)


def _sizes(eps: Any) -> list[float | str]:
    """Return sizes as Python numbers or fractions; NumPy's and torch's scalars are numbers too."""
    sizes = [eps] if isinstance(eps, str) or not isinstance(eps, Iterable) or not getattr(eps, "ndim", 1) else list(eps)
    return [size if isinstance(size, str) else _number(size, "eps") for size in sizes]


def _number(value: Any, what: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{what} must be a number, not {value!r}") from None


def _prepare(
    model: Any, score_range: Any, higher_is_better: Any, name: str | None, records: Records | None
) -> tuple[str, QualityModel]:
    """Return a name and the model with its fingerprint, by which no record of another model is taken for its own."""
    if isinstance(model, type):
        raise UserError(f"model is the class {model.__name__}; give an object of it, such as {model.__name__}()")
    if not isinstance(model, nn.Module):
        raise UserError(f"model must be a registry name or an nn.Module, not {type(model).__name__}")
    if isinstance(model, QualityModel):
        own: QualityModel = copy.copy(model)
    else:
        low, high = _range(score_range)
        if not isinstance(higher_is_better, bool):
            raise UserError(f"higher_is_better must be True or False, not {higher_is_better!r}")
        own = Custom(model, ModelInfo(type(model).__name__, (low, high), higher_is_better, min_size=1))
    identity = fingerprint(model)
    chosen = _distinct(name or own.info.name, identity, given=name is not None, records=records)
    own.info = replace(own.info, name=chosen, weights_sha256=identity)
    return chosen, own


def _range(score_range: Any) -> tuple[float, float]:
    """Return the two ends of a range of scores, which rises; `higher_is_better` says its direction."""
    ends = list(score_range) if isinstance(score_range, Iterable) and not isinstance(score_range, str) else []
    if len(ends) != 2:
        raise UserError(f"score_range must be two numbers, the lowest and the highest score, not {score_range!r}")
    low, high = (_number(end, "an end of score_range") for end in ends)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(
            f"score_range must be (low, high) with finite low < high, not {score_range!r}; "
            "for a score that is better when lower, give higher_is_better=False"
        )
    return low, high


def _distinct(name: str, identity: str, *, given: bool, records: Records | None) -> str:
    """Return a name under which a results folder holds no cells of another model.

    Raises:
        UserError: where the caller chose the name, and it is that of another model.
    """
    if not name.strip():
        raise UserError("name must not be empty")
    taken = {
        record["model"]["weights_sha256"] for record in (records.all() if records else ()) if record["cell"]["model"] == name
    }
    if not taken or identity in taken:
        return name
    if given:
        raise UserError(f"{name!r} is another model in these results; choose another name or another out")
    return f"{name}@{identity[:8]}"
