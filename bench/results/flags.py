"""Flags, signs that a robustness is not real: of a model and its defense, from the records of its cells alone.

docs/flags.md says when each is raised, why, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from iqarena.bench.metrics.bootstrap import interval
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.results.formatting import spec_parts
from iqarena.bench.results.track import FinishedCell

FLAGS = (
    "left-ball",
    "zero-gradient",
    "black-box-wins",
    "transfer-wins",
    "adaptive-weaker",
    "more-steps-no-help",
    "no-collapse",
    "noise-as-good",
    "out-of-range",
    "undeclared-randomness",
    "optimises-in-forward",
    "depends-on-batch",
)
"""In the order in which they are shown. The first two and the last two are raised within a cell, see
`iqarena.bench.evaluation.crafting` and `iqarena.bench.inference.runtime_flags`; the others by comparing cells."""

MARGIN = 0.05
"""Gain from which an attack counts as stronger, as a share of the inter-quartile range of the model's clean qualities."""
STILL = 0.1
"""Share of that margin: a longer run that gains less has stopped improving."""
LONGER = 2.0
"""Least ratio of the steps, or of the sizes, of two runs that are compared."""
ALL = 15.5 / 255
"""Size in linf from which an attack should leave next to nothing of a ranking."""
LEFT = 0.5
"""Share of the clean SROCC above which a ranking has not collapsed."""
STRAY, STRAYING = 0.1, 0.05
"""Distance from [0, 1] beyond which a clean quality is out of range, and the share of such images that raises the flag."""
SAME_QUALITY = 1e-3
"""Largest difference of a model's clean qualities between machines; more means random scores, or other weights."""


class Flag(NamedTuple):
    """A flag, and the reason why it was raised."""

    name: str
    why: str


def diagnose(cells: Iterable[FinishedCell]) -> list[Flag]:
    """Return the flags of one model and defense on one data set, from its cells of all sizes; each flag at most once.

    Only cells that ended ok and are on the same images are compared. A flag that several cells raise keeps the first reason:
    one within a cell comes before those from comparisons.
    """
    flags: dict[str, Flag] = {}
    ordered = sorted(cells, key=lambda cell: (cell.cell["norm"], cell.cell["eps"], cell.name))
    for cell in ordered:
        for name in cell.record["flags"]:
            if name in FLAGS and not cell.control and (cell.saw_deployed_model or name != "zero-gradient"):
                flags.setdefault(name, Flag(name, f"in {cell.name}"))
    usable = [cell for cell in ordered if cell.ok]
    for flag in (*_check_clean_scores(usable), *_compare_sizes(usable), *_compare_attacks(usable)):
        flags.setdefault(flag.name, flag)
    return [flags[name] for name in FLAGS if name in flags]


def _compare_attacks(cells: Sequence[FinishedCell]) -> Iterator[Flag]:
    """Yield the flags that follow from comparing attacks of one size."""
    groups: dict[tuple[Any, ...], list[FinishedCell]] = {}
    for cell in cells:
        key = (cell.cell["norm"], cell.cell["eps"], cell.cell.get("queries"), cell.scores.images)
        groups.setdefault(key, []).append(cell)
    for group in groups.values():
        yield from _compare_with_noise(group)
        for objective in sorted({cell.cell["objective"] for cell in group}):
            yield from _compare_of_objective([cell for cell in group if cell.cell["objective"] == objective])


def _compare_of_objective(cells: Sequence[FinishedCell]) -> Iterator[Flag]:
    on_deployed = [cell for cell in cells if cell.saw_deployed_model]
    white = _strongest(cell for cell in on_deployed if cell.white_box)
    transferred = [cell for cell in cells if cell.cell["setting"] == "transfer" and not cell.control]
    oblivious = [
        cell for cell in cells if cell.cell["setting"] == "oblivious" and cell.white_box and not cell.saw_deployed_model
    ]
    rivals = {
        "black-box-wins": _strongest(cell for cell in on_deployed if cell.black_box),
        "transfer-wins": _strongest(transferred),
        "adaptive-weaker": _strongest(oblivious),
    }
    for name, rival in rivals.items():
        if white and rival and (reason := _beats(rival, white)):
            yield Flag(name, reason)
    strongest = _strongest(cell for cell in cells if not cell.control)
    for cell in on_deployed:
        stopped = _stopped(cell, on_deployed) if cell.white_box else ""
        if stopped and strongest and (reason := _beats(strongest, cell)):
            yield Flag("more-steps-no-help", f"{stopped}, yet {reason}")


def _strongest(cells: Iterable[FinishedCell]) -> FinishedCell | None:
    return min(cells, key=lambda cell: float(cell.remaining.mean()), default=None)


def _beats(rival: FinishedCell, cell: FinishedCell) -> str:
    """Return a sentence if an attack clearly gets further than another: beyond the margin, with an interval above zero."""
    value, low, _ = interval(_sample(rival.scores.images).mean(cell.remaining - rival.remaining))
    return f"{rival.name} gets {value:.2f} further than {cell.name}" if value > _margin(rival) and low > 0 else ""


def _margin(cell: FinishedCell) -> float:
    return MARGIN * max(cell.spread, 0.1)


@lru_cache(maxsize=4)
def _sample(images: tuple[tuple[str, str], ...]) -> ResampledStatistics:
    return ResampledStatistics.of([reference for _, reference in images])


def _compare_with_noise(cells: Sequence[FinishedCell]) -> Iterator[Flag]:
    """Compare the control with the strongest of all attacks by mean |shift|, since noise has no objective."""
    controls, attacks = [cell for cell in cells if cell.control], [cell for cell in cells if not cell.control]
    if controls and attacks:
        noise, attack = (max(group, key=lambda cell: float(cell.shift.mean())) for group in (controls, attacks))
        value, low, _ = interval(_sample(noise.scores.images).mean(attack.shift - noise.shift))
        if not low > 0:
            reason = f"no attack moves qualities clearly further than {noise.cell['attack']} does"
            yield Flag("noise-as-good", f"{reason}: {attack.name} by {value:.3f} of {float(attack.shift.mean()):.3f}")


def _stopped(cell: FinishedCell, others: Sequence[FinishedCell]) -> str:
    """Return a sentence if the second half of a run's queries, or a run of more steps, gains nothing."""
    still, curve = STILL * _margin(cell), cell.record.get("curve") or {}
    if curve and curve["forwards"][-1] > 2 * LONGER:
        counts, gains = curve["forwards"], curve["abs_gain"]
        half = max(index for index, count in enumerate(counts) if count <= counts[-1] / LONGER)
        if gains[-1] - gains[half] < still:
            return f"{cell.name} moves nothing further after {counts[half]} of {counts[-1]} forwards"
    for other in others:
        if _is_longer_run(cell, other) and float((cell.remaining - other.remaining).mean()) < still:
            return f"{other.name} gets no further than {cell.name}"
    return ""


def _is_longer_run(cell: FinishedCell, other: FinishedCell) -> bool:
    """Check whether the other cell is the same attack in the same setting with more steps."""
    if cell.cell["setting"] != other.cell["setting"] or not other.white_box:
        return False
    (name, few), (other_name, many) = _parameters(cell), _parameters(other)
    if name != other_name or "steps" not in few or "steps" not in many:
        return False
    same = {key: value for key, value in few.items() if key != "steps"} == {k: v for k, v in many.items() if k != "steps"}
    return same and bool(many["steps"] >= LONGER * few["steps"])


def _parameters(cell: FinishedCell) -> tuple[str, dict[str, Any]]:
    return spec_parts(cell.cell["attack"])[0], cell.record["attack"].get("parameters", {})


def _compare_sizes(cells: Sequence[FinishedCell]) -> Iterator[Flag]:
    """Yield the flags that follow from comparing the strongest attacks of several sizes."""
    groups: dict[tuple[Any, ...], dict[float, list[FinishedCell]]] = {}
    for cell in cells:
        if not cell.control:
            key = (cell.cell["norm"], cell.scores.images)
            groups.setdefault(key, {}).setdefault(float(cell.cell["eps"]), []).append(cell)
    for (norm, _), by_size in groups.items():
        sizes = sorted(by_size)
        if norm == "linf" and sizes[-1] >= ALL and (kept := _kept_srocc(by_size[sizes[-1]])) > LEFT:
            yield Flag("no-collapse", f"at {norm} {sizes[-1]:.3g} the strongest attack still leaves {kept:.0%} of the SROCC")
        for small, large in pairwise(sizes):
            if (
                large >= LONGER * small
                and _kept_srocc(by_size[large]) > LEFT
                and _no_further(by_size[small], by_size[large])
            ):
                yield Flag("no-collapse", f"attacks get no further at {norm} {large:.3g} than at {small:.3g}")


def _no_further(small: Sequence[FinishedCell], large: Sequence[FinishedCell]) -> bool:
    """Check whether no objective's strongest attack gains by the larger size."""
    gains = []
    for objective in {cell.cell["objective"] for cell in small} & {cell.cell["objective"] for cell in large}:
        at_small, at_large = (
            _strongest(cell for cell in cells if cell.cell["objective"] == objective) for cells in (small, large)
        )
        if at_small and at_large:
            gains.append(float((at_small.remaining - at_large.remaining).mean()) > STILL * _margin(at_small))
    return bool(gains) and not any(gains)


def _kept_srocc(cells: Sequence[FinishedCell]) -> float:
    """Return the least SROCC after an attack as a share of the clean one; without labels, with the clean qualities."""
    worst = 1.0
    for cell in cells:
        scores, known = cell.scores, np.isfinite(cell.scores.mos)
        if known.sum() < 2:
            known = np.ones(len(known), dtype=bool)
        labels = scores.mos if np.isfinite(scores.mos[known]).all() else scores.clean
        sample, qualities = ResampledStatistics(np.ones((1, int(known.sum())))), (scores.clean[known], scores.adv[known])
        before, after = (float(srocc[0]) for srocc in sample.spearmans(labels[known], qualities))
        worst = min(worst, np.nan_to_num(after) / before if before > 0 else 0.0)
    return worst


def _check_clean_scores(cells: Sequence[FinishedCell]) -> Iterator[Flag]:
    """Yield the flags that follow from the clean qualities."""
    for cell in cells[:1]:
        clean = cell.scores.clean
        stray = float((np.abs(clean - 0.5) > 0.5 + STRAY).mean())
        if stray > STRAYING:
            ends = f"they go from {clean.min():.2f} to {clean.max():.2f}"
            yield Flag("out-of-range", f"{stray:.0%} of the clean qualities are outside of the range; {ends}")
    for first, other in product(cells[:1], cells[1:]):
        fixed = not (first.record["defense"].get("stochastic") or other.record["defense"].get("stochastic"))
        if fixed and first.scores.images == other.scores.images and _weights(first) == _weights(other):
            difference = float(np.abs(first.scores.clean - other.scores.clean).max())
            if difference > SAME_QUALITY:
                yield Flag("undeclared-randomness", f"clean qualities differ by up to {difference:.3f} between two cells")


def _weights(cell: FinishedCell) -> tuple[Any, Any]:
    return cell.record["model"].get("weights_sha256"), cell.record["defense"].get("weights_sha256")
