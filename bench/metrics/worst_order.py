"""The worst ranking that intervals of quality leave open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from iqarena.bench.metrics.weighted import Reals

Order = NDArray[np.intp]


EXACT = 16
"""Images up to which the worst order is found for certain; work and memory grow as 2ⁿ."""


WINDOW = 9
"""Neighbours in an order that the search for longer ones rearranges at once."""


@dataclass(frozen=True)
class CertifiedSrocc:
    """The least SROCC with the labels that qualities inside their intervals can have, from below and from above.

    Attributes:
        bound: no qualities inside the intervals have less. This is what is certified.
        found: the least that the search found; there are qualities inside the intervals that have it.
    """

    bound: float
    found: float


def certified_srocc(lower: Reals, upper: Reals, labels: Reals) -> CertifiedSrocc:
    """The worst SROCC that intervals of quality leave open.

    Without ties this is the linear extension of an interval order with the least Σ rank of label · rank of quality, a
    single-machine scheduling problem with unit jobs (1 | prec, pⱼ = 1 | Σ wⱼCⱼ) for which nobody knows a fast exact method.
    Up to 16 images it is solved by dynamic programming over sets. Above, the bound is the better of two relaxations, each
    exact where its solution is an order: every pair by itself, and every image in the ranks that its interval leaves it.
    Qualities may tie where intervals touch or, being points, coincide, and labels may tie; then the bound can be below the
    exact value, never above it.

    Args:
        lower, upper: (n,) ends of the intervals, ∓∞ and NaN meaning that nothing is known.
        labels: (n,).

    Returns:
        NaN twice for fewer than two images, equal labels, or a missing one.
    """
    if len(labels) < 2 or np.isnan(labels).any() or np.ptp(labels) == 0:
        return CertifiedSrocc(float("nan"), float("nan"))
    lower, upper = _finite(lower, upper)
    weights = stats.rankdata(labels)
    before = upper[:, None] < lower[None, :]
    if len(labels) <= EXACT:
        least, order = _exact_order(weights, before)
    else:
        least = max(_pair_bound(weights, before), _place_bound(weights, before))
        order = _search(weights, before, lower, upper)
    return CertifiedSrocc(_srocc_bound(least, weights), _srocc(_qualities(order, lower, upper), labels))


def _finite(lower: Reals, upper: Reals) -> tuple[Reals, Reals]:
    """The same order of intervals with finite ends."""
    ends = np.concatenate([lower, upper])
    ends = ends[np.isfinite(ends)]
    low, high = (ends.min() - 1, ends.max() + 1) if len(ends) else (0.0, 1.0)
    return np.nan_to_num(lower, nan=low, neginf=low), np.nan_to_num(upper, nan=high, posinf=high)


def _srocc_bound(least: float, weights: Reals) -> float:
    """SROCC that no qualities undercut whose strict orders all have a sum of rank products of at least `least`.

    Breaking a tie of qualities against the labels always lowers SROCC, so the worst qualities tie at most where labels tie,
    too. The sum is then that of a strict order, and the ranks of qualities vary at least as much as those of labels.
    """
    count = len(weights)
    covariance = least - count * ((count + 1) / 2) ** 2
    own = float(((weights - weights.mean()) ** 2).sum())
    strict = (count**3 - count) / 12
    return max(covariance / (own if covariance < 0 else float(np.sqrt(own * strict))), -1.0)


def _srocc(qualities: Reals, labels: Reals) -> float:
    if np.ptp(qualities) == 0:
        return float("nan")
    return float(stats.spearmanr(qualities, labels).statistic)


def _qualities(order: Order, lower: Reals, upper: Reals) -> Reals:
    """Qualities inside the intervals that rise along a linear extension, strictly wherever that is possible."""
    found = np.empty(len(order))
    last = -np.inf
    for place in order:
        # spread over what is left of the interval would do as well; the next number above is the least that rises
        last = min(max(lower[place], np.nextafter(last, np.inf)), upper[place])
        found[place] = last
    return found


def _cost(order: Order, weights: Reals) -> float:
    return float((weights[order] * np.arange(1, len(order) + 1)).sum())


def _exact_order(weights: Reals, before: NDArray[np.bool_]) -> tuple[float, Order]:
    """Least Σ weight · place over all linear extensions, and one that has it; over all sets that can come first."""
    count = len(weights)
    needed = before.T @ (1 << np.arange(count))  # of each, the set of those before it
    sets = np.arange(1 << count)
    sizes = np.bitwise_count(sets)
    cost, last = np.full(1 << count, np.inf), np.zeros(1 << count, dtype=np.intp)
    cost[0] = 0
    for size in range(1, count + 1):
        layer = sets[sizes == size]
        for item in range(count):
            ends = layer[(layer >> item & 1 == 1) & (needed[item] & ~layer == 0)]
            tried = cost[ends ^ (1 << item)] + weights[item] * size
            better = tried < cost[ends]
            cost[ends[better]], last[ends[better]] = tried[better], item
    order, left = [], (1 << count) - 1
    while left:
        order.append(last[left])
        left ^= 1 << int(last[left])
    return float(cost[-1]), np.array(order[::-1], dtype=np.intp)


def _pair_bound(weights: Reals, before: NDArray[np.bool_]) -> float:
    """Σ weight · place is Σ weight plus, for each pair, the weight of the later one; each open pair as it is least."""
    later = np.where(before, weights[None, :], np.where(before.T, weights[:, None], np.minimum.outer(weights, weights)))
    return float(weights.sum() + np.triu(later, 1).sum())


def _place_bound(weights: Reals, before: NDArray[np.bool_]) -> float:
    """The best assignment of places, each image to one that is left to it by those that must come before and after."""
    count = len(weights)
    places = np.arange(1, count + 1)
    first, final = 1 + before.sum(axis=0), count - before.sum(axis=1)
    allowed = (places >= first[:, None]) & (places <= final[:, None])
    costs = np.where(allowed, weights[:, None] * places, float(count) ** 4)
    rows, columns = optimize.linear_sum_assignment(costs)
    return float(costs[rows, columns].sum())


def _search(weights: Reals, before: NDArray[np.bool_], lower: Reals, upper: Reals) -> Order:
    """A linear extension that neither moving one image nor rearranging a window of neighbours improves."""
    best: Order | None = None
    for start in (np.lexsort((-weights, lower)), np.lexsort((-weights, upper)), _greedy(weights, before)):
        order = start
        while True:
            improved = _windows(_moves(order, weights, before), weights, before)
            if _cost(improved, weights) >= _cost(order, weights):
                break
            order = improved
        if best is None or _cost(order, weights) < _cost(best, weights):
            best = order
    assert best is not None
    return best


def _greedy(weights: Reals, before: NDArray[np.bool_]) -> Order:
    """Always the heaviest of those that nothing still has to come before."""
    waiting, left, order = before.sum(axis=0), weights.copy(), []
    for _ in range(len(weights)):
        chosen = int(np.where(waiting == 0, left, -np.inf).argmax())
        order.append(chosen)
        left[chosen] = -np.inf
        waiting = waiting - before[chosen]
    return np.array(order, dtype=np.intp)


def _moves(order: Order, weights: Reals, before: NDArray[np.bool_]) -> Order:
    """Each image in turn to the best place that it can reach alone."""
    for item in np.argsort(-weights):
        here = int(np.flatnonzero(order == item)[0])
        ahead, behind = order[:here][::-1], order[here + 1 :]
        ahead = ahead[: _until(before[ahead, item])]
        behind = behind[: _until(before[item, behind])]
        earlier = np.cumsum(weights[ahead] - weights[item])
        later = np.cumsum(weights[item] - weights[behind])
        steps, gains = np.arange(1, len(ahead) + 1), earlier
        if len(later) and (not len(earlier) or later.min() < earlier.min()):
            steps, gains = -np.arange(1, len(behind) + 1), later
        if len(gains) and gains.min() < 0:
            order = np.insert(np.delete(order, here), here - int(steps[gains.argmin()]), item)
    return order


def _until(blocked: NDArray[np.bool_]) -> int:
    """How many come before the first that blocks."""
    return int(blocked.argmax()) if blocked.any() else len(blocked)


def _windows(order: Order, weights: Reals, before: NDArray[np.bool_]) -> Order:
    """Each window of neighbours in its best order."""
    order = order.copy()
    for start in range(0, max(len(order) - WINDOW, 0) + 1, WINDOW // 2):
        part = order[start : start + WINDOW]
        order[start : start + WINDOW] = part[_exact_order(weights[part], before[np.ix_(part, part)])[1]]
    return order
