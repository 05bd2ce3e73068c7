"""Data frames of robustness against the size of attacks and their cost, and of the transfer of attacks between models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from iqarena.bench.results.ranking import tracks
from iqarena.bench.results.store import Records
from iqarena.bench.results.track import tracks_of

KEYS = ["dataset", "norm", "eps", "model", "defense"]


def size_curves(records: Records) -> pd.DataFrame:
    """Return robust SROCC and worst mean |shift| against ε.

    Returns:
        One row per model and defense at every size, and at 0, without an attack: dataset, label_kind, norm, eps,
        model, defense, srocc and shift with their ``_lo`` and ``_hi``, complete (whether no attack is missing there),
        fingerprint (of the data set).
    """
    rows: list[dict[str, Any]] = []
    for (dataset, label_kind, norm, eps, fingerprint), ranked in tracks(records).items():
        for row in ranked:
            name = {"dataset": dataset, "label_kind": label_kind, "norm": norm, "fingerprint": fingerprint}
            name |= {"model": row.model, "defense": row.defense}
            clean = {**ends("srocc", row.clean), **ends("shift", (0.0,) * 3), "complete": True}
            attacked = {**ends("srocc", row.robust), **ends("shift", row.shift), "complete": row.complete}
            rows += [{**name, "eps": 0.0, **clean}, {**name, "eps": eps, **attacked}]
    order = ["dataset", "label_kind", "norm", "fingerprint", "model", "defense", "eps"]
    columns = [*order[:3], "eps", "model", "defense", *ends("srocc", (0.0,) * 3), *ends("shift", (0.0,) * 3), "complete"]
    columns.append("fingerprint")
    frame = pd.DataFrame(rows, columns=columns).drop_duplicates(order)
    return frame.sort_values(order, ignore_index=True)


def ends(name: str, triple: tuple[float, float, float]) -> dict[str, float]:
    """Return a value and its interval as columns of a table."""
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), triple, strict=True))


def integral_robustness(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Compute the mean of a measure over all sizes from 0 to the largest: ∫ v(ε) dε / ε_max, by the trapezoidal rule.

    The integral is that of the Integral Robustness Score (Chistyakova et al., Technologies 12(11):220, 2024), divided by
    ε_max so that it keeps the measure's units, range and direction. NaN where a value is missing or no size is above 0.

    Args:
        sizes: increasing, the first one 0.
        values: of the measure at these sizes.
    """
    if len(sizes) < 2 or sizes[0] != 0 or not sizes[-1] > 0:
        return float("nan")
    return float(trapezoid(values, sizes) / sizes[-1])


def integrals(curves: pd.DataFrame) -> pd.DataFrame:
    """Compute the integral robustness of every model and defense from `size_curves`.

    Returns:
        One row per data set, norm, model and defense: srocc_integral (higher is more robust), shift_integral (lower is more
        robust), eps_max, sizes and fingerprint (of the data set). Both integrals are NaN for those that lack an attack or a
        size that others have, since they could not be compared.
    """
    rows = []
    for (*track, fingerprint), curves_of_track in curves.groupby(
        ["dataset", "label_kind", "norm", "fingerprint"], sort=True
    ):
        sizes = sorted(set(curves_of_track.eps))
        for name, curve in curves_of_track.sort_values("eps").groupby(["model", "defense"], sort=True):
            complete = list(curve.eps) == sizes and bool(curve.complete.all())
            both = [integral_robustness(sizes, list(curve[m])) if complete else float("nan") for m in ("srocc", "shift")]
            rows.append((*track, *name, *both, sizes[-1], len(sizes) - 1, fingerprint))
    columns = ["dataset", "label_kind", "norm", "model", "defense", "srocc_integral", "shift_integral", "eps_max", "sizes"]
    return pd.DataFrame(rows, columns=[*columns, "fingerprint"])


def effort_curves(records: Records) -> pd.DataFrame:
    """Return the progress of each attack by forward passes, from one run each; see `iqarena.bench.inference.query_trace`.

    Returns:
        One row per checkpoint of every cell whose attack queries its target: dataset, norm, eps, model, defense, attack,
        objective, setting, source, cell_id, forwards, abs_gain, srocc, stability_srocc (missing is NaN), fingerprint (of
        the data set). The measures are those of the model that the attack saw, which in the settings oblivious and transfer
        is not the deployed one.
    """
    rows, loaded = [], list(records.all())
    for record, track in zip(loaded, tracks_of(loaded), strict=True):
        cell, curve = record["cell"], record.get("curve") or {}
        name = [cell[column] for column in KEYS]
        name += [cell["attack"], cell["objective"], cell["setting"], cell.get("source", ""), record["cell_id"]]
        points = zip(*(curve.get(key, []) for key in _POINTS), strict=True)
        rows += [(*name, *(np.nan if value is None else value for value in point), track.fingerprint) for point in points]
    columns = [*KEYS, "attack", "objective", "setting", "source", "cell_id", *_POINTS, "fingerprint"]
    return pd.DataFrame(rows, columns=columns)


_POINTS = ["forwards", "abs_gain", "srocc", "stability_srocc"]


def transfers(records: Records) -> pd.DataFrame:
    """Return the effect of attacks crafted on one undefended model on another model, or on a defended one.

    Returns:
        One row per ok cell that was crafted on an undefended model: dataset, norm, eps, model, defense, attack,
        objective, source (the model crafted on, which may be the model itself), srocc_clean, srocc_adv, stability_srocc,
        abs_gain, fingerprint (of the data set). Controls are left out, since they are not crafted on any model.
    """
    rows, loaded = [], list(records.all())
    for record, track in zip(loaded, tracks_of(loaded), strict=True):
        cell, measures = record["cell"], record["measures"]
        undefended = cell["setting"] != "adaptive" or cell["defense"] == "none"
        if undefended and record["status"] == "ok" and not record["attack"]["control"]:
            name = [
                *(cell[column] for column in KEYS),
                cell["attack"],
                cell["objective"],
                cell.get("source") or cell["model"],
            ]
            rows.append((*name, *(measures.get(measure) for measure in _MEASURES), track.fingerprint))
    frame = pd.DataFrame(rows, columns=[*KEYS, "attack", "objective", "source", *_MEASURES, "fingerprint"])
    frame[_MEASURES] = frame[_MEASURES].astype(float)
    # on an undefended model, oblivious and adaptive are the same
    return frame.drop_duplicates([*KEYS, "fingerprint", "attack", "objective", "source"], ignore_index=True)


_MEASURES = ["srocc_clean", "srocc_adv", "stability_srocc", "abs_gain"]


def transfer_matrix(
    table: pd.DataFrame, measure: Literal["srocc_adv", "stability_srocc", "abs_gain"] = "abs_gain"
) -> pd.DataFrame:
    """Return `transfers` of one data set and size as a matrix: one row per source, one column per target, the worst attack.

    For a target, only attacks that were crafted on all its sources count; NaN where there is none.
    """
    names = table.model.where(table.defense == "none", table.model + " + " + table.defense)
    table = table.assign(target=names, condition=table.attack + " " + table.objective)
    sources = table.groupby(["target", "condition"]).source.transform("nunique")
    shared = table[sources == table.groupby("target").source.transform("nunique")]
    worst = shared.groupby(["source", "target"])[measure].agg("max" if measure == "abs_gain" else "min")
    return worst.unstack("target").reindex(index=sorted(set(table.source)), columns=sorted(set(names)))
