"""The measures of a cell, each with its formula, range, direction and source.

In all formulas q is the clean and q′ the attacked quality of the deployed model (1 = best, not clamped), u the clean quality
of the undefended model, and y the label. A measure is computed for the images themselves and for every resample of a
bootstrap by the same code, see `iqarena.bench.metrics.resampled`. It is NaN where it is not defined, such as a correlation
of scores that are all equal. Measures with labels are of the images that have a label, and NaN if fewer than two have one.

The docstring of a measure has three paragraphs: description, formula, and range, direction and source.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from iqarena.bench.metrics.bootstrap import intervals
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.metrics.scores import Scores
from iqarena.bench.metrics.weighted import Reals

FLOOR = 1e-6
"""Lower limit of denominators in quality units; keeps ratios finite if a shift or a quality is zero."""


# --- agreement with the labels


def srocc_clean(s: Scores) -> Reals:
    """Rank agreement of clean qualities with the labels.

    Spearman's rank correlation of q and y, mid-ranks for ties

    [-1, 1], higher is better; VQEG (2000)
    """
    return s.sample.spearman(s.mos, s.clean)


def srocc_adv(s: Scores) -> Reals:
    """Rank agreement of attacked qualities with the labels.

    Spearman's rank correlation of q′ and y, mid-ranks for ties

    [-1, 1], higher is more robust; −1 is a reversed ranking; VQEG (2000)
    """
    return s.sample.spearman(s.mos, s.adv)


def plcc_clean(s: Scores) -> Reals:
    """Linear agreement of clean qualities with the labels.

    Pearson's correlation of q and y as they are

    [-1, 1], higher is better; VQEG (2000)
    """
    return s.sample.pearson(s.mos, s.clean)


def plcc_adv(s: Scores) -> Reals:
    """Linear agreement of attacked qualities with the labels.

    Pearson's correlation of q′ and y as they are

    [-1, 1], higher is more robust; VQEG (2000)
    """
    return s.sample.pearson(s.mos, s.adv)


def krocc_adv(s: Scores) -> Reals:
    """Pairwise rank agreement of attacked qualities with the labels.

    Kendall's τ-b of q′ and y: (concordant − discordant pairs) / √(pairs untied in q′ · pairs untied in y)

    [-1, 1], higher is more robust; Kendall (1945)
    """
    return s.sample.kendall(s.mos, s.adv)


def rmse_adv(s: Scores) -> Reals:
    """Root mean square difference between attacked qualities and labels.

    √(mean (q′ − y)²), no curve fitted

    [0, ∞), lower is more robust, in quality units; VQEG (2000)
    """
    return np.sqrt(s.sample.mean((s.adv - s.mos) ** 2))


def krocc_clean(s: Scores) -> Reals:
    """Pairwise rank agreement of clean qualities with the labels.

    Kendall's τ-b of q and y

    [-1, 1], higher is better; Kendall (1945)
    """
    return s.sample.kendall(s.mos, s.clean)


def rmse_clean(s: Scores) -> Reals:
    """Root mean square difference between clean qualities and labels.

    √(mean (q − y)²), no curve fitted

    [0, ∞), lower is better, in quality units; VQEG (2000)
    """
    return np.sqrt(s.sample.mean((s.clean - s.mos) ** 2))


def plcc_clean_fitted(s: Scores) -> Reals:
    """`plcc_clean` as usually reported, after a curve from qualities to labels is fitted.

    Pearson's correlation of f(q) and y; f(q) = (β₁ − β₂) / (1 + exp(−(q − β₃) / |β₄|)) + β₂, least squares on (q, y)

    [-1, 1], higher is better; VQEG (2000), four-parameter logistic
    """
    return s.sample.pearson(s.mos, s.curve(s.clean))


def plcc_adv_fitted(s: Scores) -> Reals:
    """`plcc_adv` after the curve fitted to the *clean* qualities.

    Pearson's correlation of f(q′) and y, f as for plcc_clean_fitted. A curve fitted to attacked qualities could decrease
    where f increases, and turn a reversed ranking into a high correlation

    [-1, 1], higher is more robust; VQEG (2000) for f
    """
    return s.sample.pearson(s.mos, s.curve(s.adv))


def rmse_clean_fitted(s: Scores) -> Reals:
    """`rmse_clean` as usually reported, after the curve is fitted.

    √(mean (f(q) − y)²), f as for plcc_clean_fitted

    [0, ∞), lower is better, in label units; VQEG (2000)
    """
    return np.sqrt(s.sample.mean((s.curve(s.clean) - s.mos) ** 2))


def rmse_adv_fitted(s: Scores) -> Reals:
    """`rmse_adv` after the curve fitted to the clean qualities.

    √(mean (f(q′) − y)²), f as for plcc_clean_fitted

    [0, ∞), lower is more robust, in label units; VQEG (2000) for f
    """
    return np.sqrt(s.sample.mean((s.curve(s.adv) - s.mos) ** 2))


# --- agreement with the clean qualities


def stability_srocc(s: Scores) -> Reals:
    """Rank agreement of attacked with clean qualities, whether or not the clean ranking is right.

    Spearman's rank correlation of q and q′

    [-1, 1], higher is more robust; −1 is full reflection; Liu et al. (CVPR 2024)
    """
    return s.sample.spearman(s.clean, s.adv)


def reflection_rate(s: Scores) -> Reals:
    """Share of image pairs whose order the attack reverses.

    Share of the pairs with different q whose order in q′ is the opposite; pairs that tie in q′ are not reversed

    [0, 1], lower is more robust; 1 is full reflection; defined here, for the score reflection of arXiv 2404.19567
    """
    return s.sample.reversed_share(s.clean, s.adv)


def stability_plcc(s: Scores) -> Reals:
    """Linear agreement of attacked with clean qualities.

    Pearson's correlation of q and q′

    [-1, 1], higher is more robust; Liu et al. (CVPR 2024)
    """
    return s.sample.pearson(s.clean, s.adv)


def stability_krocc(s: Scores) -> Reals:
    """Pairwise rank agreement of attacked with clean qualities.

    Kendall's τ-b of q and q′

    [-1, 1], higher is more robust; Liu et al. (CVPR 2024)
    """
    return s.sample.kendall(s.clean, s.adv)


def stability_rmse(s: Scores) -> Reals:
    """Root mean square shift of the qualities, which weights large shifts more.

    √(mean (q′ − q)²)

    [0, ∞), lower is more robust, in quality units; Liu et al. (CVPR 2024)
    """
    return np.sqrt(s.sample.mean(s.shift**2))


# --- size of the shift


def abs_gain(s: Scores) -> Reals:
    """Mean absolute shift of the qualities.

    mean |q′ − q|

    [0, ∞), lower is more robust, in quality units; both_defended_abs_gain of Guardians (arXiv 2408.01541)
    """
    return s.sample.mean(s.shift)


def rel_gain(s: Scores) -> Reals:
    """Mean absolute shift relative to the clean quality.

    mean (|q′ − q| / max(|q|, 10⁻⁶))

    [0, ∞), lower is more robust; after both_defended_rel_gain of Guardians, which divides by the raw score + 10⁻⁶
    """
    return s.sample.mean(s.shift / np.maximum(np.abs(s.clean), FLOOR))


def robust_abs_gain(s: Scores) -> Reals:
    """Mean absolute shift from the clean qualities of the undefended model, by attack and defense together.

    mean |q′ − u|

    [0, ∞), lower is better, in quality units; robust_abs_gain of Guardians, their main result
    """
    return s.sample.mean(np.abs(s.adv - s.undefended))


def robust_rel_gain(s: Scores) -> Reals:
    """Mean of that shift relative to the clean quality of the undefended model.

    mean (|q′ − u| / max(|u|, 10⁻⁶))

    [0, ∞), lower is better; after robust_rel_gain of Guardians, which divides by the raw score + 10⁻⁶
    """
    return s.sample.mean(np.abs(s.adv - s.undefended) / np.maximum(np.abs(s.undefended), FLOOR))


def abs_gain_iqr(s: Scores) -> Reals:
    """Mean absolute shift relative to the inter-quartile range of the model's clean qualities.

    mean |q′ − q| / (75 % − 25 % quantile of q)

    [0, ∞), lower is more robust; 1 is the distance from the lower to the upper quartile of clean qualities. It exceeds
    abs_gain, since models use only a part of their nominal range; defined here
    """
    spread = s.sample.quantile(s.clean, 0.75) - s.sample.quantile(s.clean, 0.25)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > FLOOR, abs_gain(s) / spread, np.nan)


def shift_median(s: Scores) -> Reals:
    """Median absolute shift.

    50 % quantile of |q′ − q|

    [0, ∞), lower is more robust, in quality units
    """
    return s.sample.quantile(s.shift, 0.5)


def shift_p95(s: Scores) -> Reals:
    """95th percentile of the absolute shift.

    95 % quantile of |q′ − q|

    [0, ∞), lower is more robust, in quality units
    """
    return s.sample.quantile(s.shift, 0.95)


def r_score(s: Scores) -> Reals:
    """Mean logarithm of the ratio of the largest possible shift to the actual shift.

    mean log₁₀(max(1 − q, q) / max(|q′ − q|, 10⁻⁶)), 0 and 1 being the ends of the nominal range

    (-∞, 6] for q in [0, 1], higher is more robust; 0 is the largest possible shift; Liu et al. (CVPR 2024)
    """
    largest = np.maximum(np.maximum(1 - s.clean, s.clean), FLOOR)
    return s.sample.mean(np.log10(largest / np.maximum(s.shift, FLOOR)))


def r_score_minmax(s: Scores) -> Reals:
    """`r_score` as in the MSU benchmark, on the scale of the minimum and maximum clean quality of the image set.

    mean log₁₀(max(1 − x, x) / (|x′ − x| + 10⁻⁶)), x = (q − min q) / (max q − min q), x′ = (q′ − min q) / (max q − min q)

    (-∞, 6], higher is more robust; Antsiferova et al. (AAAI 2024)
    """
    low, high = s.sample.quantile(s.clean, 0), s.sample.quantile(s.clean, 1)
    out = np.full(len(low), np.nan)
    for ends in {*zip(low.tolist(), high.tolist(), strict=True)}:  # few: most resamples contain the extreme images
        if ends[1] > ends[0]:
            x, shift = (s.clean - ends[0]) / (ends[1] - ends[0]), s.shift / (ends[1] - ends[0])
            same = (low == ends[0]) & (high == ends[1])
            logs = np.log10(np.maximum(np.maximum(1 - x, x), FLOOR) / (shift + FLOOR))
            out[same] = (s.sample.weights[same] @ logs) / s.sample.total[same]
    return out


# --- distance of the distributions


def wasserstein(s: Scores) -> Reals:
    """Signed Wasserstein distance between the distributions of clean and attacked qualities.

    sign(mean q′ − mean q) · W₁(q, q′), W₁ = ∫ |F − F′|

    (-∞, ∞), near 0 is more robust, in quality units; below 0 qualities decreased; Antsiferova et al. (AAAI 2024)
    """
    return _sign(s) * s.sample.wasserstein(s.clean, s.adv)


def energy_distance(s: Scores) -> Reals:
    """Signed energy distance of the same distributions, which weights differences in shape less.

    sign(mean q′ − mean q) · √(2 ∫ (F − F′)²)

    (-∞, ∞), near 0 is more robust; Antsiferova et al. (AAAI 2024)
    """
    return _sign(s) * s.sample.energy(s.clean, s.adv)


def _sign(s: Scores) -> Reals:
    return np.sign(s.sample.mean(s.adv) - s.sample.mean(s.clean))


Measure = Callable[[Scores], Reals]

MEASURES: tuple[Measure, ...] = (
    srocc_clean,
    srocc_adv,
    plcc_clean,
    plcc_adv,
    krocc_adv,
    rmse_adv,
    stability_srocc,
    abs_gain,
    rel_gain,
    r_score,
    reflection_rate,
    krocc_clean,
    rmse_clean,
    plcc_clean_fitted,
    plcc_adv_fitted,
    rmse_clean_fitted,
    rmse_adv_fitted,
    stability_plcc,
    stability_krocc,
    stability_rmse,
    robust_abs_gain,
    robust_rel_gain,
    abs_gain_iqr,
    shift_median,
    shift_p95,
    r_score_minmax,
    wasserstein,
    energy_distance,
)
"""All measures in the order of their columns in summary.csv. New ones are appended, so the columns keep their positions."""


WITH_LABELS: set[Measure] = {
    *(srocc_clean, srocc_adv, plcc_clean, plcc_adv, krocc_adv, rmse_adv, krocc_clean, rmse_clean),
    *(plcc_clean_fitted, plcc_adv_fitted, rmse_clean_fitted, rmse_adv_fitted),
}
"""The measures that compare qualities with labels; images without a label are left out of them."""


def columns(measures: tuple[Measure, ...] = MEASURES) -> list[str]:
    """Return the columns of summary.csv for measures: each measure and the ends of its interval."""
    return [f"{measure.__name__}{end}" for measure in measures for end in ("", "_lo", "_hi")]


def image_table(images: pd.DataFrame) -> dict[str, Reals]:
    """Return the columns of images.csv that measures need, for the images that have scores, as float arrays."""
    usable = images[images.clean_quality.notna() & images.adv_quality.notna()]
    named = {"mos": "mos", "clean": "clean_quality", "adv": "adv_quality", "undefended": "undefended_clean_quality"}
    table = {name: usable[column].to_numpy(dtype=np.float64) for name, column in named.items()}
    table["reference_id"] = usable.reference_id.to_numpy(dtype=object)
    return table


def measure_cell(images: pd.DataFrame) -> dict[str, float]:
    """Compute all measures of a cell with their 95 % intervals, ``_lo`` and ``_hi``, from its images.csv."""
    table = image_table(images)
    if len(table["clean"]) < 2:
        return dict.fromkeys(columns(), float("nan"))
    scores = Scores(table, ResampledStatistics.of(list(table["reference_id"])))
    values = [measure(scores.labelled if measure in WITH_LABELS else scores) for measure in MEASURES]
    triples = intervals(np.stack(values))
    return dict(zip(columns(), [number for triple in triples for number in triple], strict=True))
