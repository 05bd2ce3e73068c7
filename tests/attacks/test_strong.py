"""Auto-PGD, the ensembles and the set-level attack."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from iqarena.attacks.apgd import APGD, reviews
from iqarena.attacks.objective import Objective
from iqarena.attacks.score_reflection import ScoreReflection
from iqarena.attacks.score_reflection_apgd import ScoreReflectionAPGD
from iqarena.attacks.sma import SMA, _rank_correlation_gradient, _standardised, rank_destroying
from iqarena.attacks.standard import Standard, StandardRank
from iqarena.attacks.threat import Threat
from iqarena.bench.registry import ATTACKS
from tests.support.analytic_models import LinearModel, MeanModel, QuadraticModel
from tests.support.attack_runs import craft, random_pixels

EIGHT = Threat("linf", 8 / 255)


class Wavy(LinearModel):
    """A linear model with an oscillating score: plain steps get stuck in its local optima."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = super().forward(images)
        return score + 0.05 * (40 * score).sin()


# --- Auto-PGD


def test_steps_are_reviewed_where_the_paper_says():
    # Croce and Hein: p₁ = 0.22, then p grows by max(last growth − 0.03, 0.06): 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99
    assert reviews(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("levels", [1, 4])
def test_apgd_reaches_the_linf_optimum_of_a_linear_model_byte_by_byte(levels):
    model, clean = LinearModel(), random_pixels(3)
    for kind, direction in (("lower", -1), ("raise", 1)):
        _, stored, _ = craft(APGD(steps=10), model, clean, kind, Threat("linf", levels / 255))
        best = (clean.float() + direction * levels * model.weight.detach().sign()).clamp(0, 255).to(torch.uint8)
        assert torch.equal(stored.pixels, best)


def test_apgd_l2_gains_the_norm_of_the_weights_times_the_radius():
    model, clean, radius = LinearModel(), random_pixels(3, low=90, high=166), 2.0
    before = model(clean.float() / 255).detach()
    _, stored, _ = craft(ATTACKS.build("apgd-l2[steps=20]"), model, clean, "lower", Threat("l2", radius))
    gain = before - model(stored.pixels.float() / 255).detach()
    weights = model.weight.detach()
    ideal = float(weights.norm() * radius)
    # rounding to bytes, toward the clean image at worst, takes at most Σ|w|/255
    assert (gain >= ideal - float(weights.abs().sum()) / 255 - 1e-4).all()
    assert (gain <= ideal + 1e-4).all()


def test_apgd_goes_beyond_plain_descent_on_a_wavy_model():
    model, clean = Wavy(reach=2.0), random_pixels(6, low=90, high=166)
    results = {}
    for name in ("apgd[steps=40]", "pgd[steps=40,random_start=false]"):
        _, stored, _ = craft(ATTACKS.build(name), model, clean, "lower", EIGHT)
        results[name] = model(stored.pixels.float() / 255).detach()
    a, b = results.values()
    assert (a <= b + 1e-3).all()


def test_apgd_spends_one_forward_more_than_backwards_a_run_and_stops_restarting_what_has_arrived():
    clean = random_pixels(3, low=90, high=166)
    _, _, target = craft(APGD(steps=5, restarts=2), LinearModel(), clean, "lower", EIGHT)
    assert target.counts.forwards.tolist() == [1 + 2 * 6] * 3
    assert target.counts.backwards.tolist() == [2 * 5] * 3
    _, _, target = craft(ScoreReflectionAPGD(steps=50, restarts=3), LinearModel(reach=5), clean, "reflect", EIGHT)
    # from the clean image all pixels move alike and whole levels leave few qualities; one random start breaks that
    assert (target.counts.backwards <= 100).all()


@pytest.mark.parametrize("limit", [1, 2, 7, 30])
@pytest.mark.parametrize("attack", [APGD(steps=20, restarts=2), ScoreReflectionAPGD(steps=20)])
def test_apgd_keeps_to_a_query_limit(attack, limit):
    _, stored, target = craft(attack, LinearModel(), random_pixels(2), attack.objectives[0], replace(EIGHT, queries=limit))
    assert int(target.counts.forwards.max()) <= limit
    assert not stored.left_ball.any()


def test_reflection_by_apgd_lands_nearer_to_the_mirrored_quality_than_by_plain_steps():
    model, clean = LinearModel(reach=10.0), random_pixels(6, low=90, high=166)
    before = model(clean.float() / 255).detach()
    missed = {}
    for attack in (ScoreReflection(), ScoreReflectionAPGD(steps=40)):
        _, stored, _ = craft(attack, model, clean, "reflect", EIGHT)
        missed[attack.name] = (model(stored.pixels.float() / 255).detach() - (1 - before)).abs()
    # plain steps of a quarter ball move quality by 0.08 and end within 0.04; halving steps close in
    assert float(missed["score-reflection-apgd"].max()) <= 0.005
    assert (missed["score-reflection-apgd"] <= missed["score-reflection"] + 1e-4).all()


# --- ensembles


@pytest.mark.parametrize("ensemble", [Standard(), StandardRank()])
def test_an_ensemble_keeps_of_each_image_the_member_that_is_worst(ensemble):
    model, clean = Wavy(reach=4.0), random_pixels(4, low=90, high=166)
    threat = Threat("linf", 2 / 255)
    before = model(clean.float() / 255).detach()
    objective = Objective(ensemble.objectives[0], before)
    short = [
        (replace(member, **{"queries" if member.name == "square" else "steps": 10}), kind)
        for member, kind in ensemble.members
    ]
    type(ensemble).members, kept = tuple(short), ensemble.members
    try:
        _, whole, _ = craft(ensemble, model, clean, ensemble.objectives[0], threat)
        single = [craft(member, model, clean, kind, threat)[1].pixels for member, kind in short]
    finally:
        type(ensemble).members = kept
    badness = [ensemble.badness(objective, model(p.float() / 255).detach()) for p in single]
    reached = ensemble.badness(objective, model(whole.pixels.float() / 255).detach())
    # random members draw from streams that go on, so `single` is another draw of the one random member
    assert (reached >= torch.stack(badness[:4]).amax(dim=0) - 1e-5).all()


def test_members_of_the_ensembles_run_with_their_defaults_under_their_own_names():
    for ensemble in (Standard(), StandardRank()):
        for member, kind in ensemble.members:
            assert ATTACKS.build(member.name) == member
            assert kind in member.objectives


# --- the set-level attack


def test_gradient_of_the_soft_rank_correlation_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(7, generator=generator, dtype=torch.float64)
    wanted = _standardised(torch.arange(7, dtype=torch.float64))

    def correlation(v):
        ranks = ((v[:, None] - v[None, :]) / 0.1).sigmoid().sum(dim=1)
        return (_standardised(ranks) * wanted).mean()

    numeric = torch.zeros(7, dtype=torch.float64)
    for i in range(7):
        step = torch.zeros(7, dtype=torch.float64)
        step[i] = 1e-5
        numeric[i] = (correlation(values + step) - correlation(values - step)) / 2e-5
    # central differences err by (1e-5)² times a third derivative of up to 1/0.1³
    assert torch.allclose(_rank_correlation_gradient(values, wanted, 0.1), numeric, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_aims_are_as_bad_as_the_worst_found_by_trying_all(seed):
    generator = np.random.default_rng(seed)
    clean = generator.random(5)
    low, high = clean - 0.25 * generator.random(5), clean + 0.25 * generator.random(5)
    result = rank_destroying(*(torch.tensor(v, dtype=torch.float32) for v in (clean, low, high)), error_weight=0.0)
    assert (result.numpy() >= low - 1e-6).all()
    assert (result.numpy() <= high + 1e-6).all()
    every = itertools.product(*(np.linspace(a, b, 5) for a, b in zip(low, high, strict=True)))
    worst = min(spearmanr(clean, aims)[0] for aims in every)
    # of 5 images, one swap of neighbours changes SROCC by 0.1; the descent may miss the best order by three of them
    assert spearmanr(clean, result.numpy())[0] <= worst + 0.3 + 1e-9


def test_sma_reverses_a_set_that_it_can_reverse_and_stays_within_reach_where_it_cannot():
    model, clean = LinearModel(reach=30.0), random_pixels(8, low=90, high=166)
    before = model(clean.float() / 255).detach()
    _, stored, _ = craft(SMA(steps=20), model, clean, "target", EIGHT)
    after = model(stored.pixels.float() / 255).detach()
    assert spearmanr(before, after)[0] < -0.95
    narrow = Threat("linf", 1 / 255)
    _, stored, _ = craft(SMA(steps=20), MeanModel(), clean, "target", narrow)
    moved = (MeanModel()(stored.pixels.float() / 255) - MeanModel()(clean.float() / 255)).abs()
    assert float(moved.max()) <= 1 / 255 + 1e-6


@pytest.mark.parametrize("limit", [1, 2, 9, 40])
def test_sma_keeps_to_a_query_limit(limit):
    _, stored, target = craft(SMA(steps=10), QuadraticModel(), random_pixels(3), "target", replace(EIGHT, queries=limit))
    assert int(target.counts.forwards.max()) <= limit
    assert not stored.left_ball.any()


@pytest.mark.parametrize(
    "make", [lambda: APGD(steps=0), lambda: APGD(restarts=0), lambda: SMA(steps=0), lambda: SMA(error_weight=-1)]
)
def test_parameters_without_sense_are_refused(make):
    with pytest.raises(ValueError, match="at least"):
        make()
