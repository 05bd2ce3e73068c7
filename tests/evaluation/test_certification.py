"""Certificates of an image set: the worst ranking against brute force."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from iqarena.attacks.threat import Threat
from iqarena.bench.evaluation.certification import RADIUS, certify, measure_certificates, radius_of, unsound
from iqarena.bench.metrics.worst_order import _assignment_bound, _exact_order, _pair_bound, certified_srocc
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.certified.base import Certificate
from iqarena.defenses.certified.median import MedianSmoothing
from iqarena.models.base import QualityModel
from tests.audits.certificates import Bumpy, Untrained
from tests.support.analytic_models import LinearModel
from tests.support.attack_runs import random_pixels

# --- the worst ranking


def brute_force(lower, upper, labels) -> float:
    """Return the least SROCC over qualities at, between and just beside all interval ends: all orders with all ties."""
    ends = np.unique(np.concatenate([lower, upper]))
    inside = [end + step for end in ends for step in (0, 1e-3, -1e-3)]
    grid = np.unique(np.concatenate([inside, (ends[:-1] + ends[1:]) / 2]))
    choices = [grid[(grid >= low) & (grid <= high)] for low, high in zip(lower, upper, strict=True)]
    every = np.array(list(itertools.product(*choices)))
    ranked = np.apply_along_axis(stats.rankdata, 1, every)
    ranked -= ranked.mean(axis=1, keepdims=True)
    own = stats.rankdata(labels) - (len(labels) + 1) / 2
    varies = (ranked**2).sum(axis=1) > 0
    return float((ranked[varies] @ own / np.sqrt((ranked[varies] ** 2).sum(axis=1) * (own**2).sum())).min())


def orders_by_force(weights, before) -> float:
    """Return the least Σ weight · position over all permutations that keep the required order."""
    least = math.inf
    for order in itertools.permutations(range(len(weights))):
        if not any(before[b, a] for a, b in itertools.combinations(order, 2)):
            least = min(least, sum(weights[item] * position for position, item in enumerate(order, 1)))
    return least


def random_intervals(count, generator, spread):
    centre, half = generator.random(count), spread * generator.random(count)
    return centre - half, centre + half


@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("spread", [0.1, 0.3, 0.6])
def test_worst_order_is_that_of_brute_force(count, spread):
    generator = np.random.default_rng(count)
    for _ in range(3):
        lower, upper = random_intervals(count, generator, spread)
        weights = stats.rankdata(generator.random(count))
        before = upper[:, None] < lower[None, :]
        expected = orders_by_force(weights, before)
        least, order = _exact_order(weights, before)
        assert least == pytest.approx(expected)
        assert (weights[order] * np.arange(1, count + 1)).sum() == pytest.approx(expected)
        assert max(_pair_bound(weights, before), _assignment_bound(weights, before)) <= expected + 1e-9
        result = certified_srocc(lower, upper, weights)
        assert result.bound == pytest.approx(result.found, abs=1e-9)


@pytest.mark.parametrize("labels", [(1, 2, 3, 4), (1, 1, 2, 2), (1, 2, 2, 3), (4, 1, 2, 2)])
def test_no_qualities_with_ties_undercut_the_bound(labels):
    generator = np.random.default_rng(sum(labels))
    exact = 0
    for step in (0.25, 0.5):  # coarse ends, so that intervals touch and are points
        for _ in range(4):
            ends = np.sort(np.round(generator.random((2, 4)) / step) * step, axis=0)
            result = certified_srocc(*ends, np.array(labels, dtype=float))
            if all(low == high for low, high in ends.T) and np.ptp(ends) == 0:
                continue
            expected = brute_force(*ends, np.array(labels, dtype=float))
            assert result.bound <= expected + 1e-9
            assert math.isnan(result.found) or result.found >= expected - 1e-9
            exact += result.bound == pytest.approx(expected, abs=1e-6)
    assert exact >= 1


def test_above_the_exact_size_the_truth_is_between_bound_and_found():
    generator = np.random.default_rng(0)
    for count, spread in ((17, 0.05), (40, 0.2), (40, 0.02)):
        labels = generator.random(count)
        lower, upper = random_intervals(count, generator, spread)
        result = certified_srocc(lower, upper, labels)
        assert -1 <= result.bound <= result.found + 1e-9
        drawn = [stats.spearmanr(generator.uniform(lower, upper), labels).statistic for _ in range(300)]
        assert result.found < min(drawn)
        weights, before = stats.rankdata(labels), upper[:, None] < lower[None, :]
        subset = generator.permutation(count)[:14]  # the relaxations hold for any part of the set, too
        part = stats.rankdata(labels[subset]), before[np.ix_(subset, subset)]
        assert max(_pair_bound(*part), _assignment_bound(*part)) <= _exact_order(*part)[0]
        assert _pair_bound(weights, before) > 0


def test_points_have_their_own_srocc_and_whole_lines_its_reverse():
    generator = np.random.default_rng(1)
    labels, quality = generator.random((2, 30))
    certain = certified_srocc(quality, quality, labels)
    assert certain.bound == pytest.approx(stats.spearmanr(quality, labels).statistic)
    assert certain.found == pytest.approx(certain.bound)
    unknown = certified_srocc(np.full(30, -np.inf), np.where(labels > 0.5, np.inf, np.nan), labels)
    assert (unknown.bound, unknown.found) == pytest.approx((-1, -1))


def test_without_labels_there_is_no_certified_srocc():
    for labels in ([0.1, np.nan], [0.5, 0.5], [0.5]):
        lower = np.zeros(len(labels))
        assert math.isnan(certified_srocc(lower, lower + 1, np.array(labels)).bound)


# --- certificates of an image set


def test_certificates_are_of_one_radius_but_beside_a_threat_in_l2():
    assert radius_of(Threat("l2", 0.7)) == 0.7
    assert {radius_of(Threat(norm, 0.1)) for norm in ("linf", "l0", "patch", "ssim")} == {RADIUS}


def test_certificates_of_a_set_do_not_depend_on_order_and_company():
    images, seeds = [*random_pixels(3), random_pixels(1, 20, 24)[0]], [5, 6, 7, 8]
    defense, model = MedianSmoothing(certify_draws=200, batch=200), Bumpy().train()
    images[3] = random_pixels(1, 16, 16, seed=9)[0]
    whole = certify(defense, model, images, seeds, 0.02)
    state = torch.get_rng_state()
    turned = certify(defense, model, images[::-1], seeds[::-1], 0.02)
    assert torch.equal(whole.lower, turned.lower.flip(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_measures_of_certificates():
    lower, upper = torch.tensor([0.0, 0.4, 0.7]).double(), torch.tensor([0.2, 0.6, 0.9]).double()
    certificate = Certificate(lower, upper, 0.5, 0.99)
    attacked, lengths = np.array([0.1, 0.61, np.nan]), np.array([0.4, 0.5, np.nan])
    result = measure_certificates(certificate, np.array([1.0, 2, 3]), attacked, lengths)
    assert result == pytest.approx({"certified_srocc": 1, "certificate_width": 0.2, "certificate_radius": 0.5,
                                   "certificate_confidence": 0.97, "certificates_left": 1})  # fmt: skip
    # of a longer change a certificate says nothing
    far = measure_certificates(certificate, np.array([1.0, 2, 3]), attacked, np.array([0.4, 0.51, np.nan]))
    assert far["certificates_left"] == 0
    assert not unsound(0, 100, 1.0)
    assert unsound(1, 100, 1.0)
    assert not unsound(3, 200, 0.99)
    assert unsound(12, 200, 0.99)


@pytest.mark.parametrize("name", ["median-smoothing", "randomized-smoothing", "lipschitz"])
def test_certified_defenses_are_registered_as_such(name):
    assert DEFENSES.build(name).kind == "certified"
    assert replace(DEFENSES.build(name)) == DEFENSES.build(name)


def test_the_untrained_model_of_the_audit_is_bounded_like_the_real_one():
    protected = Untrained(slope=200.0).protect(LinearModel())
    assert isinstance(protected, QualityModel)
    assert protected.constant(16, 16) == pytest.approx(200 / math.sqrt(3 * 256))


def test_images_without_a_label_are_left_out_of_the_certified_srocc():
    lower, upper, labels = np.array([0.1, 0.2, 0.9, 0.4]), np.array([0.2, 0.5, 0.95, 0.6]), np.array([0.1, 0.5, np.nan, 0.9])
    known = ~np.isnan(labels)
    assert certified_srocc(lower, upper, labels) == certified_srocc(lower[known], upper[known], labels[known])
    assert np.isnan(certified_srocc(lower, upper, labels * np.nan).bound)
