"""Signs that a robustness is not real: flags of a model and its defense, from the records of its cells alone.

When each is raised, why, and what to do about it stands in docs/flags.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from iqarena.bench.metrics.bootstrap import interval
from iqarena.bench.metrics.resampled import ResampledStatistics
from iqarena.bench.registry import parse_spec
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
)
"""In the order in which they are shown. The first two and the last two are raised in a cell, see `iqarena.bench.evaluation.crafting` and
`iqarena.bench.inference.runtime_flags`; the others by what cells say of each other."""

MARGIN = 0.05
"""What counts as stronger: by so much of the spread of the model's own clean qualities (their inter-quartile range)."""
STILL = 0.1
"""Of that margin: a longer run that gains less has stopped."""
LONGER = 2.0
"""How many times as many steps, or as large a size, two runs must differ by to be compared."""
ALL = 15.5 / 255
"""Size in linf from which an attack should leave next to nothing of a ranking."""
LEFT = 0.5
"""Share of the clean SROCC above which a ranking has not collapsed."""
STRAY, STRAYING = 0.1, 0.05
"""How far outside of [0, 1] a clean quality is out of range, and the share of images from which that is a flag."""
SAME_QUALITY = 1e-3
"""Clean qualities of one model that differ by more were drawn at random, or by other weights; other machines change less."""


class Flag(NamedTuple):
    """A flag, and what it was raised by."""

    name: str
    why: str


def diagnose(cells: Iterable[FinishedCell]) -> list[Flag]:
    """Flags of one model and defense on one data set, from its cells of all sizes; each flag once, by its clearest cause.

    Cells are compared where they ended ok and are of the same images.
    """
    found: dict[str, Flag] = {}
    every = sorted(cells, key=lambda e: (e.cell["norm"], e.cell["eps"], e.name))
    for evidence in every:
        for name in evidence.record["flags"]:
            if name in FLAGS and not evidence.control and (evidence.knowing or name != "zero-gradient"):
                found.setdefault(name, Flag(name, f"in {evidence.name}"))
    whole = [evidence for evidence in every if evidence.ok]
    for flag in (*_scores(whole), *_sizes(whole), *_strength(whole)):
        found.setdefault(flag.name, flag)
    return [found[name] for name in FLAGS if name in found]


def _strength(every: Sequence[FinishedCell]) -> Iterator[Flag]:
    """What attacks of one size say of each other."""
    groups: dict[tuple[Any, ...], list[FinishedCell]] = {}
    for evidence in every:
        cell = evidence.cell
        groups.setdefault((cell["norm"], cell["eps"], cell.get("queries"), evidence.scores.images), []).append(evidence)
    for cells in groups.values():
        yield from _noise(cells)
        for kind in sorted({evidence.cell["objective"] for evidence in cells}):
            yield from _one_objective([evidence for evidence in cells if evidence.cell["objective"] == kind])


def _one_objective(cells: Sequence[FinishedCell]) -> Iterator[Flag]:
    knowing = [e for e in cells if e.knowing]
    white = _strongest(e for e in knowing if e.white_box)
    moved = [e for e in cells if e.cell["setting"] == "transfer" and not e.control]
    ignorant = [e for e in cells if e.cell["setting"] == "oblivious" and e.white_box and not e.knowing]
    rivals = {
        "black-box-wins": _strongest(e for e in knowing if e.black_box),
        "transfer-wins": _strongest(moved),
        "adaptive-weaker": _strongest(ignorant),
    }
    for name, rival in rivals.items():
        if white and rival and (words := _beats(rival, white)):
            yield Flag(name, words)
    strongest = _strongest(e for e in cells if not e.control)
    for evidence in knowing:
        stopped = _stopped(evidence, knowing) if evidence.white_box else ""
        if stopped and strongest and (words := _beats(strongest, evidence)):
            yield Flag("more-steps-no-help", f"{stopped}, yet {words}")


def _strongest(cells: Iterable[FinishedCell]) -> FinishedCell | None:
    return min(cells, key=lambda e: float(e.left.mean()), default=None)


def _beats(one: FinishedCell, other: FinishedCell) -> str:
    """In words, if an attack leaves less than another: by more than the margin, and clear of zero."""
    value, low, _ = interval(_sample(one.scores.images).mean(other.left - one.left))
    return f"{one.name} gets {value:.2f} further than {other.name}" if value > _margin(one) and low > 0 else ""


def _margin(evidence: FinishedCell) -> float:
    return MARGIN * max(evidence.spread, 0.1)


@lru_cache(maxsize=4)
def _sample(images: tuple[tuple[str, str], ...]) -> ResampledStatistics:
    return ResampledStatistics.of([reference for _, reference in images])


def _noise(cells: Sequence[FinishedCell]) -> Iterator[Flag]:
    """The control against the strongest of all attacks, by mean |shift|: noise has no objective."""
    controls, attacks = [e for e in cells if e.control], [e for e in cells if not e.control]
    if controls and attacks:
        noise, attack = (max(some, key=lambda e: float(e.shift.mean())) for some in (controls, attacks))
        value, low, _ = interval(_sample(noise.scores.images).mean(attack.shift - noise.shift))
        if not low > 0:
            words = f"no attack moves qualities clearly further than {noise.cell['attack']} does"
            yield Flag("noise-as-good", f"{words}: {attack.name} by {value:.3f} of {float(attack.shift.mean()):.3f}")


def _stopped(evidence: FinishedCell, others: Sequence[FinishedCell]) -> str:
    """In words, if the second half of a run's questions gained nothing, or a run of more steps gains nothing over it."""
    still, curve = STILL * _margin(evidence), evidence.record.get("curve") or {}
    if curve and curve["forwards"][-1] > 2 * LONGER:
        counts, gains = curve["forwards"], curve["abs_gain"]
        half = max(place for place, count in enumerate(counts) if count <= counts[-1] / LONGER)
        if gains[-1] - gains[half] < still:
            return f"{evidence.name} moves nothing further after {counts[half]} of {counts[-1]} forwards"
    for other in others:
        if _longer(evidence, other) and float((evidence.left - other.left).mean()) < still:
            return f"{other.name} gets no further than {evidence.name}"
    return ""


def _longer(one: FinishedCell, other: FinishedCell) -> bool:
    """Whether the other cell is the same attack in the same setting with more steps."""
    if one.cell["setting"] != other.cell["setting"] or not other.white_box:
        return False
    (name, few), (other_name, many) = (_parameters(evidence) for evidence in (one, other))
    if name != other_name or "steps" not in few or "steps" not in many:
        return False
    same = {key: value for key, value in few.items() if key != "steps"} == {k: v for k, v in many.items() if k != "steps"}
    return same and bool(many["steps"] >= LONGER * few["steps"])


def _parameters(evidence: FinishedCell) -> tuple[str, dict[str, Any]]:
    return parse_spec(evidence.cell["attack"])[0], evidence.record["attack"].get("parameters", {})


def _sizes(every: Sequence[FinishedCell]) -> Iterator[Flag]:
    """What the strongest attacks of several sizes say of each other."""
    groups: dict[tuple[Any, ...], dict[float, list[FinishedCell]]] = {}
    for evidence in every:
        if not evidence.control:
            key = (evidence.cell["norm"], evidence.scores.images)
            groups.setdefault(key, {}).setdefault(float(evidence.cell["eps"]), []).append(evidence)
    for (norm, _), by_size in groups.items():
        sizes = sorted(by_size)
        if norm == "linf" and sizes[-1] >= ALL and (kept := _kept(by_size[sizes[-1]])) > LEFT:
            yield Flag("no-collapse", f"at {norm} {sizes[-1]:.3g} the strongest attack still leaves {kept:.0%} of the SROCC")
        for small, large in pairwise(sizes):
            if large >= LONGER * small and _kept(by_size[large]) > LEFT and _no_further(by_size[small], by_size[large]):
                yield Flag("no-collapse", f"attacks get no further at {norm} {large:.3g} than at {small:.3g}")


def _no_further(small: Sequence[FinishedCell], large: Sequence[FinishedCell]) -> bool:
    """Whether no objective's strongest attack gains by the larger size."""
    gains = []
    for kind in {e.cell["objective"] for e in small} & {e.cell["objective"] for e in large}:
        one, other = (_strongest(e for e in cells if e.cell["objective"] == kind) for cells in (small, large))
        if one and other:
            gains.append(float((one.left - other.left).mean()) > STILL * _margin(one))
    return bool(gains) and not any(gains)


def _kept(cells: Sequence[FinishedCell]) -> float:
    """The least SROCC after an attack as a share of the clean one; with the clean qualities where there are no labels."""
    worst = 1.0
    for evidence in cells:
        sample = ResampledStatistics(np.ones((1, len(evidence.scores.clean))))
        labels = evidence.scores.mos if np.isfinite(evidence.scores.mos).all() else evidence.scores.clean
        before, after = (float(found[0]) for found in sample.spearmans(labels, [evidence.scores.clean, evidence.scores.adv]))
        worst = min(worst, np.nan_to_num(after) / before if before > 0 else 0.0)
    return worst


def _scores(every: Sequence[FinishedCell]) -> Iterator[Flag]:
    """What clean qualities say."""
    for evidence in every[:1]:
        stray = float((np.abs(evidence.scores.clean - 0.5) > 0.5 + STRAY).mean())
        if stray > STRAYING:
            ends = f"they go from {evidence.scores.clean.min():.2f} to {evidence.scores.clean.max():.2f}"
            yield Flag("out-of-range", f"{stray:.0%} of the clean qualities are outside of the range; {ends}")
    for one, other in product(every[:1], every[1:]):
        fixed = not (one.record["defense"].get("stochastic") or other.record["defense"].get("stochastic"))
        if fixed and one.scores.images == other.scores.images and _weights(one) == _weights(other):
            apart = float(np.abs(one.scores.clean - other.scores.clean).max())
            if apart > SAME_QUALITY:
                yield Flag("undeclared-randomness", f"clean qualities differ by up to {apart:.3f} between two cells")


def _weights(evidence: FinishedCell) -> tuple[Any, Any]:
    return evidence.record["model"].get("weights_sha256"), evidence.record["defense"].get("weights_sha256")
