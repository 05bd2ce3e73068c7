"""Data frames of robustness against the size of attacks and their effort, and of what attacks on one model do to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from iqarena.bench.results.ranking import tracks
from iqarena.bench.results.store import Records

WHERE = ["dataset", "norm", "eps", "model", "defense"]


def size_curves(records: Records) -> pd.DataFrame:
    """Robust SROCC and worst mean |shift| against ε.

    Returns:
        A row for every model and defense at every size, and at 0, where nothing is attacked: dataset, label_kind, norm, eps,
        model, defense, srocc and shift with their ``_lo`` and ``_hi``, complete (whether no attack is missing there).
    """
    rows: list[dict[str, Any]] = []
    for (dataset, label_kind, norm, eps), found in tracks(records).items():
        for row in found:
            name = {"dataset": dataset, "label_kind": label_kind, "norm": norm}
            own = {"model": row.model, "defense": row.defense}
            rows.append(
                {**name, "eps": 0.0, **own, **ends("srocc", row.clean), **ends("shift", (0.0,) * 3), "complete": True}
            )
            attacked = {**ends("srocc", row.robust), **ends("shift", row.shift), "complete": row.complete}
            rows.append({**name, "eps": eps, **own, **attacked})
    order = ["dataset", "label_kind", "norm", "model", "defense", "eps"]
    columns = [*order[:3], "eps", "model", "defense", *ends("srocc", (0.0,) * 3), *ends("shift", (0.0,) * 3), "complete"]
    frame = pd.DataFrame(rows, columns=columns).drop_duplicates(order)
    return frame.sort_values(order, ignore_index=True)


def ends(name: str, triple: tuple[float, float, float]) -> dict[str, float]:
    """A value and its interval as columns of a table."""
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), triple, strict=True))


def integral_robustness(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The mean of a measure over all sizes from 0 to the largest: ∫ v(ε) dε / ε_max, by trapezoids.

    The integral is that of the Integral Robustness Score (Chistyakova et al., Technologies 12(11):220, 2024), divided by
    ε_max so that it keeps the measure's units, range and direction. NaN where a value is missing or no size is above 0.

    Args:
        sizes: rising, the first one 0.
        values: of the measure at these sizes.
    """
    if len(sizes) < 2 or sizes[0] != 0 or not sizes[-1] > 0:
        return float("nan")
    return float(trapezoid(values, sizes) / sizes[-1])


def integrals(curves: pd.DataFrame) -> pd.DataFrame:
    """Integral robustness of every model and defense, from `size_curves`.

    Returns:
        A row each, per data set and norm: srocc_integral (higher is more robust), shift_integral (lower is), eps_max and
        sizes. Both are NaN for those that lack an attack or a size that others have, since they could not be compared.
    """
    rows = []
    for where, own in curves.groupby(["dataset", "label_kind", "norm"], sort=True):
        every = sorted(set(own.eps))
        for name, line in own.sort_values("eps").groupby(["model", "defense"], sort=True):
            whole = list(line.eps) == every and bool(line.complete.all())
            both = [integral_robustness(every, list(line[m])) if whole else float("nan") for m in ("srocc", "shift")]
            rows.append((*where, *name, *both, every[-1], len(every) - 1))
    columns = ["dataset", "label_kind", "norm", "model", "defense", "srocc_integral", "shift_integral", "eps_max", "sizes"]
    return pd.DataFrame(rows, columns=columns)


def effort_curves(records: Records) -> pd.DataFrame:
    """How far each attack had come after so many forward passes, from one run each; see `iqarena.bench.inference.query_trace`.

    Returns:
        A row for every checkpoint of every cell that asks its target: dataset, norm, eps, model, defense, attack, objective,
        setting, source, cell_id, forwards, abs_gain, srocc, stability_srocc (missing is NaN). They are of the model that
        the attack saw, which in the settings oblivious and transfer is not the deployed one.
    """
    rows = []
    for record in records.all():
        cell, curve = record["cell"], record.get("curve") or {}
        name = [cell[column] for column in WHERE]
        name += [cell["attack"], cell["objective"], cell["setting"], cell.get("source", ""), record["cell_id"]]
        points = zip(*(curve.get(key, []) for key in _POINTS), strict=True)
        rows += [(*name, *(np.nan if value is None else value for value in point)) for point in points]
    return pd.DataFrame(rows, columns=[*WHERE, "attack", "objective", "setting", "source", "cell_id", *_POINTS])


_POINTS = ["forwards", "abs_gain", "srocc", "stability_srocc"]


def transfers(records: Records) -> pd.DataFrame:
    """What attacks crafted on one undefended model do to another, or to a defended one.

    Returns:
        A row for every ok cell that was crafted on an undefended model: dataset, norm, eps, model, defense, attack,
        objective, source (the model crafted on, which may be the model itself), srocc_clean, srocc_adv, stability_srocc,
        abs_gain. Controls are left out, as they are crafted on nothing.
    """
    rows = []
    for record in records.all():
        cell, measures = record["cell"], record["measures"]
        bare = cell["setting"] != "adaptive" or cell["defense"] == "none"
        if bare and record["status"] == "ok" and not record["attack"]["control"]:
            name = [
                *(cell[column] for column in WHERE),
                cell["attack"],
                cell["objective"],
                cell.get("source") or cell["model"],
            ]
            rows.append((*name, *(measures.get(measure) for measure in _MOVED)))
    frame = pd.DataFrame(rows, columns=[*WHERE, "attack", "objective", "source", *_MOVED])
    frame[_MOVED] = frame[_MOVED].astype(float)
    # on an undefended model, oblivious and adaptive are the same
    return frame.drop_duplicates([*WHERE, "attack", "objective", "source"], ignore_index=True)


_MOVED = ["srocc_clean", "srocc_adv", "stability_srocc", "abs_gain"]


def transfer_matrix(
    moved: pd.DataFrame, measure: Literal["srocc_adv", "stability_srocc", "abs_gain"] = "abs_gain"
) -> pd.DataFrame:
    """`transfers` of one data set and size as a matrix: a row a source, a column a target, the worst over the attacks.

    Only attacks that every source has been crafted by count for a target; NaN where there is none.
    """
    names = moved.model.where(moved.defense == "none", moved.model + " + " + moved.defense)
    moved = moved.assign(target=names, what=moved.attack + " " + moved.objective)
    sources = moved.groupby(["target", "what"]).source.transform("nunique")
    shared = moved[sources == moved.groupby("target").source.transform("nunique")]
    worst = shared.groupby(["source", "target"])[measure].agg("max" if measure == "abs_gain" else "min")
    return worst.unstack("target").reindex(index=sorted(set(moved.source)), columns=sorted(set(names)))
