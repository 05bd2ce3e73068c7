"""The measures of a cell, each with its formula, range, direction and source.

In all formulas q is the clean and q′ the attacked quality of the deployed model (1 = best, not clamped), u the clean quality
of the undefended one, and y the label. A measure is computed for the images themselves and for every resample of a
bootstrap by the same lines of code, see `iqarena.bench.metrics.resampled`. It is NaN where it is not defined: a correlation of scores that are
all equal, anything with labels where an image has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from iqarena.bench.metrics.bootstrap import intervals
from iqarena.bench.metrics.logistic import Curve, fit
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.metrics.weighted import Reals

FLOOR = 1e-6
"""Quality units; keeps ratios finite where a shift or a quality is zero."""


class Scores:
    """Labels and qualities of the images of a cell, (n,), and the sample that they are measured on."""

    def __init__(self, table: Mapping[str, Reals], sample: ResampledStatistics) -> None:
        self.mos, self.clean, self.adv = table["mos"], table["clean"], table["adv"]
        self.undefended = table["undefended"]
        self.sample = sample

    @cached_property
    def shift(self) -> Reals:
        """|q′ − q|."""
        return np.abs(self.adv - self.clean)

    @cached_property
    def curve(self) -> Curve:
        """From clean qualities to labels."""
        return fit(self.clean, self.mos)


# --- agreement with the labels


def srocc_clean(s: Scores) -> Reals:
    """Whether clean qualities rank images as the labels do.

    Spearman's rank correlation of q and y, mid-ranks for ties

    [-1, 1], higher is better; VQEG (2000)
    """
    return s.sample.spearman(s.mos, s.clean)


def srocc_adv(s: Scores) -> Reals:
    """Whether attacked qualities still do.

    Spearman's rank correlation of q′ and y, mid-ranks for ties

    [-1, 1], higher is more robust; −1 is a reversed ranking; VQEG (2000)
    """
    return s.sample.spearman(s.mos, s.adv)


def plcc_clean(s: Scores) -> Reals:
    """Whether clean qualities lie on a line with the labels.

    Pearson's correlation of q and y as they are

    [-1, 1], higher is better; VQEG (2000)
    """
    return s.sample.pearson(s.mos, s.clean)


def plcc_adv(s: Scores) -> Reals:
    """Whether attacked qualities lie on a line with the labels.

    Pearson's correlation of q′ and y as they are

    [-1, 1], higher is more robust; VQEG (2000)
    """
    return s.sample.pearson(s.mos, s.adv)


def krocc_adv(s: Scores) -> Reals:
    """In how many pairs attacked qualities and labels agree which image is better.

    Kendall's τ-b of q′ and y: (concordant − discordant pairs) / √(pairs untied in q′ · pairs untied in y)

    [-1, 1], higher is more robust; Kendall (1945)
    """
    return s.sample.kendall(s.mos, s.adv)


def rmse_adv(s: Scores) -> Reals:
    """How far attacked qualities are from the labels.

    √(mean (q′ − y)²), no curve fitted

    [0, ∞), lower is more robust, in quality units; VQEG (2000)
    """
    return np.sqrt(s.sample.mean((s.adv - s.mos) ** 2))


def krocc_clean(s: Scores) -> Reals:
    """In how many pairs clean qualities and labels agree which image is better.

    Kendall's τ-b of q and y

    [-1, 1], higher is better; Kendall (1945)
    """
    return s.sample.kendall(s.mos, s.clean)


def rmse_clean(s: Scores) -> Reals:
    """How far clean qualities are from the labels.

    √(mean (q − y)²), no curve fitted

    [0, ∞), lower is better, in quality units; VQEG (2000)
    """
    return np.sqrt(s.sample.mean((s.clean - s.mos) ** 2))


def plcc_clean_fitted(s: Scores) -> Reals:
    """`plcc_clean` as the field reports it, after a curve that takes qualities to labels.

    Pearson's correlation of f(q) and y; f(q) = (β₁ − β₂) / (1 + exp(−(q − β₃) / |β₄|)) + β₂, least squares on (q, y)

    [-1, 1], higher is better; VQEG (2000), four-parameter logistic
    """
    return s.sample.pearson(s.mos, s.curve(s.clean))


def plcc_adv_fitted(s: Scores) -> Reals:
    """`plcc_adv` after the curve fitted to the *clean* qualities.

    Pearson's correlation of f(q′) and y, f as for plcc_clean_fitted. A curve fitted to attacked qualities could fall where
    it used to rise, and turn a reversed ranking into a high correlation

    [-1, 1], higher is more robust; VQEG (2000) for f
    """
    return s.sample.pearson(s.mos, s.curve(s.adv))


def rmse_clean_fitted(s: Scores) -> Reals:
    """`rmse_clean` as the field reports it, after the curve.

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
    """Whether the attack leaves the ranking as it was, right or wrong.

    Spearman's rank correlation of q and q′

    [-1, 1], higher is more robust; −1 is full reflection; Liu et al. (CVPR 2024)
    """
    return s.sample.spearman(s.clean, s.adv)


def reflection_rate(s: Scores) -> Reals:
    """How often the attack turns around which of two images is better.

    Share of the pairs with different q whose order in q′ is the opposite; pairs that tie in q′ are not reversed

    [0, 1], lower is more robust; 1 is full reflection; our own, for the score reflection of arXiv 2404.19567
    """
    return s.sample.reversed_share(s.clean, s.adv)


def stability_plcc(s: Scores) -> Reals:
    """Whether attacked qualities lie on a line with the clean ones.

    Pearson's correlation of q and q′

    [-1, 1], higher is more robust; Liu et al. (CVPR 2024)
    """
    return s.sample.pearson(s.clean, s.adv)


def stability_krocc(s: Scores) -> Reals:
    """In how many pairs attacked and clean qualities agree which image is better.

    Kendall's τ-b of q and q′

    [-1, 1], higher is more robust; Liu et al. (CVPR 2024)
    """
    return s.sample.kendall(s.clean, s.adv)


def stability_rmse(s: Scores) -> Reals:
    """How far the attack moves qualities, large shifts weighing more.

    √(mean (q′ − q)²)

    [0, ∞), lower is more robust, in quality units; Liu et al. (CVPR 2024)
    """
    return np.sqrt(s.sample.mean(s.shift**2))


# --- size of the shift


def abs_gain(s: Scores) -> Reals:
    """How far the attack moves qualities.

    mean |q′ − q|

    [0, ∞), lower is more robust, in quality units; both_defended_abs_gain of Guardians (arXiv 2408.01541)
    """
    return s.sample.mean(s.shift)


def rel_gain(s: Scores) -> Reals:
    """How far the attack moves qualities, as a share of what they were.

    mean (|q′ − q| / max(|q|, 10⁻⁶))

    [0, ∞), lower is more robust; after both_defended_rel_gain of Guardians, which divides by the raw score + 10⁻⁶
    """
    return s.sample.mean(s.shift / np.maximum(np.abs(s.clean), FLOOR))


def robust_abs_gain(s: Scores) -> Reals:
    """How far attack and defense together move qualities from the undefended model's clean ones.

    mean |q′ − u|

    [0, ∞), lower is better, in quality units; robust_abs_gain of Guardians, their headline
    """
    return s.sample.mean(np.abs(s.adv - s.undefended))


def robust_rel_gain(s: Scores) -> Reals:
    """The same as a share of the undefended model's clean qualities.

    mean (|q′ − u| / max(|u|, 10⁻⁶))

    [0, ∞), lower is better; after robust_rel_gain of Guardians, which divides by the raw score + 10⁻⁶
    """
    return s.sample.mean(np.abs(s.adv - s.undefended) / np.maximum(np.abs(s.undefended), FLOOR))


def abs_gain_iqr(s: Scores) -> Reals:
    """How far the attack moves qualities, measured by how far apart the model's own clean ones lie.

    mean |q′ − q| / (75 % − 25 % quantile of q)

    [0, ∞), lower is more robust; 1 is from a middling-bad to a middling-good image. Above abs_gain as the model uses less
    than its nominal range; our own
    """
    spread = s.sample.quantile(s.clean, 0.75) - s.sample.quantile(s.clean, 0.25)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > FLOOR, abs_gain(s) / spread, np.nan)


def shift_median(s: Scores) -> Reals:
    """How far the attack moves half of the images at least.

    50 % quantile of |q′ − q|

    [0, ∞), lower is more robust, in quality units
    """
    return s.sample.quantile(s.shift, 0.5)


def shift_p95(s: Scores) -> Reals:
    """How far the attack moves those that it moves most.

    95 % quantile of |q′ − q|

    [0, ∞), lower is more robust, in quality units
    """
    return s.sample.quantile(s.shift, 0.95)


def r_score(s: Scores) -> Reals:
    """Orders of magnitude between how far qualities could move and how far they do.

    mean log₁₀(max(1 − q, q) / max(|q′ − q|, 10⁻⁶)), 0 and 1 being the ends of the nominal range

    (-∞, 6] for q in [0, 1], higher is more robust; 0 is moved all the way; Liu et al. (CVPR 2024)
    """
    room = np.maximum(np.maximum(1 - s.clean, s.clean), FLOOR)
    return s.sample.mean(np.log10(room / np.maximum(s.shift, FLOOR)))


def r_score_minmax(s: Scores) -> Reals:
    """`r_score` in the form of the MSU benchmark: the ends are the least and the largest clean quality of the set.

    mean log₁₀(max(1 − x, x) / (|x′ − x| + 10⁻⁶)), x = (q − min q) / (max q − min q), x′ = (q′ − min q) / (max q − min q)

    (-∞, 6], higher is more robust; Antsiferova et al. (AAAI 2024)
    """
    low, high = s.sample.quantile(s.clean, 0), s.sample.quantile(s.clean, 1)
    out = np.full(len(low), np.nan)
    for ends in {*zip(low.tolist(), high.tolist(), strict=True)}:  # few: the outer images are in most resamples
        if ends[1] > ends[0]:
            x, shift = (s.clean - ends[0]) / (ends[1] - ends[0]), s.shift / (ends[1] - ends[0])
            same = (low == ends[0]) & (high == ends[1])
            logs = np.log10(np.maximum(np.maximum(1 - x, x), FLOOR) / (shift + FLOOR))
            out[same] = (s.sample.weights[same] @ logs) / s.sample.total[same]
    return out


# --- distance of the distributions


def wasserstein(s: Scores) -> Reals:
    """How far the distribution of attacked qualities is from that of the clean ones, and to which side.

    sign(mean q′ − mean q) · W₁(q, q′), W₁ = ∫ |F − F′|

    (-∞, ∞), near 0 is more robust, in quality units; below 0 qualities sank; Antsiferova et al. (AAAI 2024)
    """
    return _side(s) * s.sample.wasserstein(s.clean, s.adv)


def energy_distance(s: Scores) -> Reals:
    """The same by the energy distance, which differences of shape weigh less in.

    sign(mean q′ − mean q) · √(2 ∫ (F − F′)²)

    (-∞, ∞), near 0 is more robust; Antsiferova et al. (AAAI 2024)
    """
    return _side(s) * s.sample.energy(s.clean, s.adv)


def _side(s: Scores) -> Reals:
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
"""In the order of their columns in summary.csv. A new one goes to the end, so that no column ever moves."""


def columns(measures: tuple[Measure, ...] = MEASURES) -> list[str]:
    """Of summary.csv: each measure and the ends of its interval."""
    return [f"{measure.__name__}{end}" for measure in measures for end in ("", "_lo", "_hi")]


def image_table(images: pd.DataFrame) -> dict[str, Reals]:
    """The columns of images.csv that measures need, of the images that have scores, as real arrays."""
    usable = images[images.clean_quality.notna() & images.adv_quality.notna()]
    named = {"mos": "mos", "clean": "clean_quality", "adv": "adv_quality", "undefended": "undefended_clean_quality"}
    table = {name: usable[column].to_numpy(dtype=np.float64) for name, column in named.items()}
    table["reference_id"] = usable.reference_id.to_numpy(dtype=object)
    return table


def measure_cell(images: pd.DataFrame) -> dict[str, float]:
    """All measures of a cell with ``_lo`` and ``_hi`` (95 %), from its images.csv."""
    table = image_table(images)
    if len(table["clean"]) < 2:
        return dict.fromkeys(columns(), float("nan"))
    scores = Scores(table, ResampledStatistics.of(list(table["reference_id"])))
    found = intervals(np.stack([measure(scores) for measure in MEASURES]))
    return dict(zip(columns(), [end for one in found for end in one], strict=True))
