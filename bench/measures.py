"""The measures of a cell, and their intervals.

Every measure is computed under *weights*: how often each picture counts. All ones give the value itself; the counts of a
resample of reference pictures give one bootstrap replicate. So there is one formula for both, vectorised over resamples.

In all formulas q is the clean and q' the attacked quality of the deployed model (1 = best, not clamped), y the label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Reals = NDArray[np.float64]
RESAMPLES = 1000
FLOOR = 1e-6  # quality units; keeps ratios finite where a shift or a quality is zero


def pearson(a: Reals, b: Reals, weights: Reals) -> Reals:
    """Pearson correlation. `a`, `b` are (n,) or (B, n), `weights` (B, n); returns (B,), NaN where one side is constant."""
    total = weights.sum(1, keepdims=True)
    a_dev = a - (weights * a).sum(1, keepdims=True) / total
    b_dev = b - (weights * b).sum(1, keepdims=True) / total
    covariance = (weights * a_dev * b_dev).sum(1)
    power = (weights * a_dev**2).sum(1) * (weights * b_dev**2).sum(1)
    scale = np.abs(a).max(initial=1) * np.abs(b).max(initial=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = covariance / np.sqrt(power)
    return np.where(power > (1e-12 * scale) ** 2, np.clip(found, -1, 1), np.nan)


def ranks(values: Reals, weights: Reals) -> Reals:
    """Mid-ranks (B, n) of values (n,) in a sample that holds each value `weights` (B, n) times."""
    if np.isnan(values).any():  # a picture without a label: no rank, and no measure that needs one
        return np.full((len(weights), len(values)), np.nan)
    order = np.argsort(values, kind="stable")
    new = np.r_[True, np.diff(values[order]) > 0]
    held = weights.T[order]  # (n, B), so that numpy copies and adds whole resamples at once
    if not new.all():
        held = np.add.reduceat(held, np.flatnonzero(new), axis=0)
    middle = np.cumsum(held, axis=0)
    held -= 1  # in place: for arrays of this size, asking for memory takes longer than the sums
    held *= 0.5
    middle -= held
    place = np.empty(len(values), dtype=np.intp)
    place[order] = np.cumsum(new) - 1
    return np.asarray(middle[place].T)


def spearman(a: Reals, b: Reals, weights: Reals) -> Reals:
    """Spearman rank correlation with mid-ranks for ties, in [-1, 1]."""
    return pearson(ranks(a, weights), ranks(b, weights), weights)


def kendall(a: Reals, b: Reals, weights: Reals) -> Reals:
    """Kendall's τ-b, in [-1, 1]: (concordant − discordant) / √((pairs untied in a) (pairs untied in b))."""
    order_a, order_b = np.sign(a[:, None] - a[None, :]), np.sign(b[:, None] - b[None, :])
    both = _pair_sum(order_a * order_b, weights)
    untied = _pair_sum(order_a**2, weights) * _pair_sum(order_b**2, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(untied > 0, both / np.sqrt(untied), np.nan)


def reflection_rate(clean: Reals, attacked: Reals, weights: Reals) -> Reals:
    """Share of the picture pairs of different clean quality whose order is reversed under attack, in [0, 1]."""
    order = np.sign(clean[:, None] - clean[None, :])
    reversed_pairs = order * np.sign(attacked[:, None] - attacked[None, :]) < 0
    pairs = _pair_sum(order**2, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, _pair_sum(reversed_pairs.astype(float), weights) / pairs, np.nan)


def _pair_sum(matrix: Reals, weights: Reals) -> Reals:
    """Sum over ordered pairs of different pictures, each pair as often as it is in the sample."""
    found: Reals = ((weights @ matrix) * weights).sum(1)
    return found


def _mean(values: Reals, weights: Reals) -> Reals:
    found: Reals = (weights @ values) / weights.sum(1)
    return found


def _shift(t: Mapping[str, Reals]) -> Reals:
    return np.abs(t["adv"] - t["clean"])


def _r_score(t: Mapping[str, Reals]) -> Reals:
    room = np.maximum(np.maximum(1 - t["clean"], t["clean"]), FLOOR)
    return np.asarray(np.log10(room / np.maximum(_shift(t), FLOOR)))


MEASURES: dict[str, Callable[[Mapping[str, Reals], Reals], Reals]] = {
    "srocc_clean": lambda t, w: spearman(t["mos"], t["clean"], w),
    "srocc_adv": lambda t, w: spearman(t["mos"], t["adv"], w),
    "plcc_clean": lambda t, w: pearson(t["mos"], t["clean"], w),
    "plcc_adv": lambda t, w: pearson(t["mos"], t["adv"], w),
    "krocc_adv": lambda t, w: kendall(t["mos"], t["adv"], w),
    "rmse_adv": lambda t, w: np.sqrt(_mean((t["adv"] - t["mos"]) ** 2, w)),
    "stability_srocc": lambda t, w: spearman(t["clean"], t["adv"], w),
    "abs_gain": lambda t, w: _mean(_shift(t), w),
    "rel_gain": lambda t, w: _mean(_shift(t) / np.maximum(np.abs(t["clean"]), FLOOR), w),
    "r_score": lambda t, w: _mean(_r_score(t), w),
    "reflection_rate": lambda t, w: reflection_rate(t["clean"], t["adv"], w),
}
"""Name in summary.csv → formula.

srocc, plcc, krocc, rmse compare with the label (plcc is Pearson's correlation of the qualities as they are, without a
fitted curve); stability_srocc compares attacked with clean. abs_gain is mean |q' − q|; rel_gain is mean |q' − q| / |q|;
r_score is mean log₁₀(max(1 − q, q) / |q' − q|), higher is more robust, with shifts below 1e-6 counted as 1e-6.
"""


def resample_weights(references: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Reals:
    """How often each picture counts in each resample, (1 + resamples, n); the first row is the sample itself.

    References are drawn with replacement and bring all their pictures, since pictures made from one reference are not
    independent. The draw depends on the set of references and the seed alone, so cells on the same pictures are paired.
    """
    names, place = np.unique(np.asarray(references, dtype=str), return_inverse=True)
    digest = hashlib.sha256("\n".join([str(seed), *names]).encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.vstack([np.ones(len(place)), drawn[:, place]])


def interval(values: Reals) -> tuple[float, float, float]:
    """Value (first entry) and the 2.5 and 97.5 percentiles of the resamples (the rest); NaN resamples are left out.

    The percentiles are widened to hold the value itself.
    """
    value, replicates = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value) or len(replicates) == 0:
        return value, float("nan"), float("nan")
    low, high = np.percentile(replicates, [2.5, 97.5])
    return value, min(float(low), value), max(float(high), value)


def image_table(images: pd.DataFrame) -> dict[str, Reals]:
    """The columns of images.csv that measures need, of the pictures that have scores, as real arrays."""
    usable = images[images.clean_quality.notna() & images.adv_quality.notna()]
    columns = {"mos": "mos", "clean": "clean_quality", "adv": "adv_quality"}
    table = {name: usable[column].to_numpy(dtype=np.float64) for name, column in columns.items()}
    table["reference_id"] = usable.reference_id.to_numpy(dtype=object)
    return table


def measure_cell(images: pd.DataFrame) -> dict[str, float]:
    """All measures of a cell with ``_lo`` and ``_hi`` (95 %), from its images.csv."""
    table = image_table(images)
    out: dict[str, float] = {}
    if len(table["clean"]) < 2:
        return {f"{name}{end}": float("nan") for name in MEASURES for end in ("", "_lo", "_hi")}
    weights = resample_weights(list(table["reference_id"]))
    for name, formula in MEASURES.items():
        value, low, high = interval(formula(table, weights))
        out |= {name: value, f"{name}_lo": low, f"{name}_hi": high}
    return out
