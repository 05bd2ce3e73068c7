"""The worst ranking that is possible with qualities inside given intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from iqarena.bench.metrics.weighted import Reals

Order = NDArray[np.intp]


EXACT = 16
"""Number of images up to which the worst order is computed exactly; time and memory grow as 2ⁿ."""


WINDOW = 9
"""Number of consecutive images that the search for longer orders rearranges at once."""


@dataclass(frozen=True)
class CertifiedSrocc:
    """Lower and upper bounds on the minimum SROCC with the labels over all qualities inside their intervals.

    Attributes:
        bound: lower bound on the SROCC of any qualities inside the intervals. This is the certified value.
        found: the lowest SROCC that the search found, attained by qualities inside the intervals.
    """

    bound: float
    found: float


def certified_srocc(lower: Reals, upper: Reals, labels: Reals) -> CertifiedSrocc:
    """Bound the worst SROCC with the labels that qualities inside their intervals can have.

    Without ties the worst order is the linear extension of an interval order that minimises Σ rank of label · rank of
    quality. This is a single-machine scheduling problem with unit jobs (1 | prec, pⱼ = 1 | Σ wⱼCⱼ), for which no fast exact
    algorithm is known. Up to 16 images it is solved by dynamic programming over subsets. For more images the bound is the
    better of two relaxations, each exact if its solution is an order: all pairs are independent, or each image can have any
    rank that its interval allows. Qualities may tie where intervals touch or, being points, coincide, and labels may tie;
    then the bound can be below the exact value, but never above it.

    Args:
        lower, upper: (n,) ends of the intervals; ∓∞ and NaN mean that there is no bound.
        labels: (n,); images whose label is NaN are left out.

    Returns:
        The bounds; both are NaN for fewer than two images with a label, or labels that are all equal.
    """
    known = ~np.isnan(labels)
    lower, upper, labels = lower[known], upper[known], labels[known]
    if len(labels) < 2 or np.ptp(labels) == 0:
        return CertifiedSrocc(float("nan"), float("nan"))
    lower, upper = _finite(lower, upper)
    weights = stats.rankdata(labels)
    before = upper[:, None] < lower[None, :]
    if len(labels) <= EXACT:
        least, order = _exact_order(weights, before)
    else:
        least = max(_pair_bound(weights, before), _assignment_bound(weights, before))
        order = _search(weights, before, lower, upper)
    return CertifiedSrocc(_srocc_bound(least, weights), _srocc(_qualities(order, lower, upper), labels))


def _finite(lower: Reals, upper: Reals) -> tuple[Reals, Reals]:
    """Replace infinite and missing ends by finite ones, without changing the order of the intervals."""
    ends = np.concatenate([lower, upper])
    ends = ends[np.isfinite(ends)]
    low, high = (ends.min() - 1, ends.max() + 1) if len(ends) else (0.0, 1.0)
    return np.nan_to_num(lower, nan=low, neginf=low), np.nan_to_num(upper, nan=high, posinf=high)


def _srocc_bound(least: float, weights: Reals) -> float:
    """Return a lower bound on SROCC, given that the sum of rank products of every strict order is at least `least`.

    Breaking a tie of qualities against the labels always lowers SROCC, so the worst qualities tie at most where labels tie
    as well. The sum is then that of a strict order, and the ranks of qualities vary at least as much as those of labels.
    """
    count = len(weights)
    covariance = least - count * ((count + 1) / 2) ** 2
    label_spread = float(((weights - weights.mean()) ** 2).sum())
    strict_spread = (count**3 - count) / 12
    spread = label_spread if covariance < 0 else float(np.sqrt(label_spread * strict_spread))
    return max(covariance / spread, -1.0)


def _srocc(qualities: Reals, labels: Reals) -> float:
    if np.ptp(qualities) == 0:
        return float("nan")
    return float(stats.spearmanr(qualities, labels).statistic)


def _qualities(order: Order, lower: Reals, upper: Reals) -> Reals:
    """Return qualities inside the intervals that increase along a linear extension, strictly wherever possible."""
    qualities = np.empty(len(order))
    last = -np.inf
    for index in order:
        # any larger value inside the interval would do; the next floating-point number is the smallest
        last = min(max(lower[index], np.nextafter(last, np.inf)), upper[index])
        qualities[index] = last
    return qualities


def _cost(order: Order, weights: Reals) -> float:
    return float((weights[order] * np.arange(1, len(order) + 1)).sum())


def _exact_order(weights: Reals, before: NDArray[np.bool_]) -> tuple[float, Order]:
    """Minimise Σ weight · rank over all linear extensions, by dynamic programming over the sets of the first images.

    Returns:
        The minimum, and a linear extension that attains it.
    """
    count = len(weights)
    needed = before.T @ (1 << np.arange(count))  # for each image, the set of images that must come before it
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
    """Bound Σ weight · rank from below by treating all pairs as independent.

    The sum is Σ weight plus, for each pair, the weight of the later image; a pair without a fixed order contributes the
    smaller weight.
    """
    later = np.where(before, weights[None, :], np.where(before.T, weights[:, None], np.minimum.outer(weights, weights)))
    return float(weights.sum() + np.triu(later, 1).sum())


def _assignment_bound(weights: Reals, before: NDArray[np.bool_]) -> float:
    """Bound Σ weight · rank from below by an optimal assignment of ranks.

    The ranks allowed for an image follow from the numbers of images that must come before and after it.
    """
    count = len(weights)
    ranks = np.arange(1, count + 1)
    first, final = 1 + before.sum(axis=0), count - before.sum(axis=1)
    allowed = (ranks >= first[:, None]) & (ranks <= final[:, None])
    costs = np.where(allowed, weights[:, None] * ranks, float(count) ** 4)
    rows, columns = optimize.linear_sum_assignment(costs)
    return float(costs[rows, columns].sum())


def _search(weights: Reals, before: NDArray[np.bool_], lower: Reals, upper: Reals) -> Order:
    """Search for a linear extension that cannot be improved by moving one image or by rearranging one window."""
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
    """Build an order by always taking the image with the largest weight among those without remaining predecessors."""
    predecessors, remaining, order = before.sum(axis=0), weights.copy(), []
    for _ in range(len(weights)):
        chosen = int(np.where(predecessors == 0, remaining, -np.inf).argmax())
        order.append(chosen)
        remaining[chosen] = -np.inf
        predecessors = predecessors - before[chosen]
    return np.array(order, dtype=np.intp)


def _moves(order: Order, weights: Reals, before: NDArray[np.bool_]) -> Order:
    """Move each image in turn to the best position that it can reach while the others stay in order."""
    for item in np.argsort(-weights):
        here = int(np.flatnonzero(order == item)[0])
        ahead, behind = order[:here][::-1], order[here + 1 :]
        ahead = ahead[: _count_until(before[ahead, item])]
        behind = behind[: _count_until(before[item, behind])]
        earlier = np.cumsum(weights[ahead] - weights[item])
        later = np.cumsum(weights[item] - weights[behind])
        steps, gains = np.arange(1, len(ahead) + 1), earlier
        if len(later) and (not len(earlier) or later.min() < earlier.min()):
            steps, gains = -np.arange(1, len(behind) + 1), later
        if len(gains) and gains.min() < 0:
            order = np.insert(np.delete(order, here), here - int(steps[gains.argmin()]), item)
    return order


def _count_until(blocked: NDArray[np.bool_]) -> int:
    """Count the entries before the first True."""
    return int(blocked.argmax()) if blocked.any() else len(blocked)


def _windows(order: Order, weights: Reals, before: NDArray[np.bool_]) -> Order:
    """Put each window of consecutive images into its best order."""
    order = order.copy()
    for start in range(0, max(len(order) - WINDOW, 0) + 1, WINDOW // 2):
        window = order[start : start + WINDOW]
        order[start : start + WINDOW] = window[_exact_order(weights[window], before[np.ix_(window, window)])[1]]
    return order
