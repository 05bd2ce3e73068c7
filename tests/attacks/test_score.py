"""Score-only attacks: their gains where the optimum has a closed form, what their parts compute, and their budgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import torch

from iqarena.attacks.base import Generators
from iqarena.attacks.nes import NES
from iqarena.attacks.objective import Objective
from iqarena.attacks.one_pixel import OnePixel
from iqarena.attacks.parsimonious import Parsimonious
from iqarena.attacks.patch_rs import PatchRS
from iqarena.attacks.ran import Ran
from iqarena.attacks.random_noise import RandomNoise
from iqarena.attacks.score_boundary import ScoreBoundary
from iqarena.attacks.simba import SimBA, _waves
from iqarena.attacks.spsa import SPSA
from iqarena.attacks.square import Square, _bump
from iqarena.attacks.threat import Threat
from iqarena.bench.inference.target import Target
from tests.support.analytic_models import LinearModel, MeanModel, QuadraticModel
from tests.support.attack_runs import SMALL_THREATS, craft, random_pixels

TWO = Threat("linf", 2 / 255)
ALL = [Square(), NES(), SPSA(), SimBA(), Parsimonious(), PatchRS(), OnePixel(), Ran(), ScoreBoundary()]
CASES = [pytest.param(attack, norm, id=f"{attack.name}-{norm}") for attack in ALL for norm in attack.norms]


class Recorded(LinearModel):
    """A linear model that records the qualities it returned."""

    def __init__(self, *sides: int) -> None:
        super().__init__(*sides)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        quality = super().forward(images)
        self.seen.append(quality.detach())
        return quality


def gain(attack, model, clean, kind, threat):
    """Return how far quality moved in the right direction, (N,); check that the stored images are in the ball."""
    before = model(clean.float() / 255).detach()
    _, stored, _ = craft(attack, model, clean, kind, threat)
    assert not stored.left_ball.any()
    after = model(stored.pixels.float() / 255).detach()
    return after - before if kind == "raise" else before - after


# --- budgets


@pytest.mark.parametrize(("attack", "norm"), CASES)
@pytest.mark.parametrize("limit", [1, 2, 7, 50])
def test_no_more_is_asked_than_the_threat_allows(attack, norm, limit):
    threat = replace(SMALL_THREATS[norm], queries=limit)
    _, stored, target = craft(attack, LinearModel(), random_pixels(2), "lower", threat)
    asked = target.counts.forwards
    assert int(asked.max()) <= limit
    assert not stored.left_ball.any()
    # estimates come in pairs, so that up to two queries may be left
    assert int(asked.min()) >= limit - (2 if isinstance(attack, NES | SPSA) else 0)


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_the_parameter_says_how_often_is_asked(attack, norm):
    # 43 = 1 + two steps of ten pairs and a look
    attack = replace(attack, queries=42)
    _, _, target = craft(attack, LinearModel(), random_pixels(2), "lower", SMALL_THREATS[norm])
    assert target.counts.forwards.tolist() == [43, 43]
    assert attack.passes == (42, 0)


# --- closed forms


@pytest.mark.parametrize("kind", ["raise", "lower"])
@pytest.mark.parametrize("block", [1, 4])
def test_parsimonious_finds_the_best_signs_of_a_linear_model(kind, block):
    # the gains of 48 values add up, so each is asked for once in a pass and once more when it is taken: 400 are plenty.
    # No weight is below 0.05 of about 42 of a reach of 10, so the least gain is about 1e-4; float32 steps by 6e-8
    model, clean = LinearModel(4, 4), random_pixels(3, 4, 4)
    _, stored, _ = craft(Parsimonious(queries=400, block=block), model, clean, kind, TWO)
    direction = 2 if kind == "raise" else -2
    best = (clean.float() + direction * model.weight.detach().sign()).clamp(0, 255).to(torch.uint8)
    assert torch.equal(stored.pixels, best)


def test_simba_gains_the_weight_times_the_step_with_every_value_of_a_linear_model():
    model, clean = Recorded(4, 4), random_pixels(1, 4, 4, low=10, high=246)
    _, stored, _ = craft(SimBA(queries=96, basis="pixel", step_size=1), model, clean, "lower", TWO)
    assert torch.equal(stored.pixels, (clean.float() - 2 * model.weight.detach().sign()).to(torch.uint8))
    running = torch.cat(model.seen).cummin(dim=0).values
    drops = (running[:-1] - running[1:]).double()
    # one accepted step for each of 48 weights, of 2/255·|w| each; a quality near 0.5 carries 3e-8 twice
    weights = model.weight.detach().abs().flatten().double() * 2 / 255
    assert torch.allclose(drops[drops > 0].sort().values, weights.sort().values, atol=2e-7, rtol=0)


@pytest.mark.parametrize("side", [1, 7, 16])
def test_simba_waves_are_those_of_the_cosine_transform(side):
    expected = scipy.fft.idct(np.eye(side), norm="ortho", axis=1)
    assert np.allclose(_waves(side, "l2").numpy(), expected, atol=1e-12)
    linf = _waves(side, "linf").numpy()
    assert np.allclose(np.abs(linf).max(axis=1), 1)


@pytest.mark.parametrize("attack", [NES(tile=0), SPSA(tile=0)], ids=["nes", "spsa"])
@pytest.mark.parametrize("model", [LinearModel(4, 4), QuadraticModel(0.4)], ids=["linear", "quadratic"])
def test_estimated_gradient_approaches_the_true_one_as_pairs_are_added(attack, model):
    # differences at ±σu are exact to second order, so what is left is the scatter of the directions: with n pairs in
    # d = 48 values the squared relative error is (d ± 1)/n on average, 0.012 for 4000 and 1.2 for 40, so the cosine
    # 1/√(1 + error²) is about 0.994 and 0.67
    images = random_pixels(1, 4, 4, low=90, high=166).float() / 255
    leaf = images.clone().requires_grad_()
    (true,) = torch.autograd.grad(model(leaf).sum(), leaf)
    objective, threat = Objective("lower", model(images).detach()), Threat("linf", 0.1)
    cosines = {}
    for pairs in (40, 4000):
        estimate = attack.estimate(Target(model, 1, "score"), images, objective, threat, Generators([3]), pairs)
        cosines[pairs] = float(torch.cosine_similarity(estimate.flatten(), true.flatten(), dim=0))
    assert cosines[4000] > 0.985
    assert 0.3 < cosines[40] < 0.9
    assert float((estimate - true).norm() / true.norm()) < 0.2  # its length too


def test_tiled_estimate_is_the_gradient_summed_over_the_tiles():
    model, images = LinearModel(4, 6), random_pixels(1, 4, 6, low=90, high=166).float() / 255
    objective, threat = Objective("lower", model(images).detach()), Threat("linf", 0.1)
    estimate = SPSA(tile=2).estimate(Target(model, 1, "score"), images, objective, threat, Generators([3]), 2000)
    summed = model.weight.detach().view(3, 2, 2, 3, 2).sum(dim=(1, 3))
    # twelve values: squared relative error 12/2000, cosine 0.997
    assert float(torch.cosine_similarity(estimate[0].flatten(), summed.repeat(1, 2, 3).flatten(), dim=0)) > 0.985


def test_square_in_l2_stays_in_the_ball_and_gains_more_than_a_random_direction():
    model, clean, threat = LinearModel(), random_pixels(4), Threat("l2", 1.0)
    gains = gain(Square(queries=400), model, clean, "lower", threat)
    most = float(model.weight.detach().norm())  # Cauchy–Schwarz: ‖w‖ times the radius
    # a random direction of 768 gains 0 ± most/√768, below 0.15·most in four standard deviations
    assert (gains > 0.15 * most).all()
    assert (gains <= most + 1e-5).all()


def test_square_in_l2_uses_up_the_ball():
    _, stored, _ = craft(Square(queries=200), LinearModel(), random_pixels(2), "raise", Threat("l2", 1.0))
    lengths = (stored.pixels.float() - random_pixels(2).float()).flatten(1).norm(dim=1) / 255
    assert (lengths > 0.9).all()


def test_bumps_are_the_sums_that_the_paper_defines():
    rows, columns = 5, 9
    expected = np.zeros((rows, columns))
    middle = (rows // 2, columns // 2)
    for ring in range(max(rows, columns) // 2 + 1):  # 1/j² on ever larger squares
        inside = np.maximum(
            abs(np.arange(rows) - middle[0])[:, None], abs(np.arange(columns) - middle[1])[None]
        ) <= ring  # fmt: skip
        expected += inside / (ring + 1) ** 2
    assert np.allclose(_bump(rows, columns).numpy(), expected)


def test_ran_with_one_square_is_square_from_stripes():
    class Stripes(Square):
        starts = ((0, 1),)

    model, clean = LinearModel(), random_pixels(3)
    one = craft(Ran(queries=80, squares=1, share=0.1), model, clean, "raise", TWO)[1].pixels
    two = craft(Stripes(queries=80, share=0.1), model, clean, "raise", TWO)[1].pixels
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["raise", "lower"])
def test_square_beats_noise_with_few_queries_where_quality_follows_fine_texture(kind):
    class Roughness(MeanModel):
        """A model that scores the mean squared difference of neighbours: noise raises it, flat areas lower it."""

        def forward(self, images):
            return (images[..., 1:] - images[..., :-1]).square().mean(dim=(1, 2, 3))

    clean = random_pixels(4, low=100, high=156)
    noise = gain(RandomNoise(), Roughness(), clean, kind, TWO)
    assert (gain(Square(queries=20), Roughness(), clean, kind, TWO) > noise).all()


def test_patch_blackens_a_whole_small_image():
    # the patch may be the image. Of 3000 queries 1300 or so turn a single pixel of 64 into one of 8 colours: each pixel
    # meets its best colour 2.5 times on average and a better one more often
    clean = random_pixels(2, 8, 8)
    _, stored, _ = craft(PatchRS(queries=3000), MeanModel(), clean, "lower", Threat("patch", 1.0))
    assert (stored.pixels.float().flatten(1).mean(dim=1) < 0.1 * 255).all()


def test_patch_changes_one_square_and_moves():
    threat, clean = Threat("patch", 0.07), random_pixels(6)
    side = threat.side(16, 16)
    _, stored, _ = craft(PatchRS(queries=60), LinearModel(), clean, "lower", threat)
    changed = (stored.pixels != clean).any(dim=1)
    corners = set()
    for one in changed:
        rows, columns = one.any(dim=1).nonzero(), one.any(dim=0).nonzero()
        assert int(rows.max() - rows.min()) < side
        assert int(columns.max() - columns.min()) < side
        corners.add((int(rows.min()), int(columns.min())))
    assert len(corners) > 1


@pytest.mark.parametrize("pixels", [1, 3])
def test_one_pixel_changes_no_more_pixels_than_it_says(pixels):
    clean = random_pixels(4)
    _, stored, _ = craft(OnePixel(queries=120, pixels=pixels), LinearModel(), clean, "lower", Threat("l0", 0.5))
    changed = (stored.pixels != clean).any(dim=1).flatten(1).sum(dim=1)
    assert (changed <= pixels).all()
    assert (changed >= 1).all()


def test_one_pixel_mostly_finds_the_best_pixel_of_a_linear_model():
    model, clean = LinearModel(4, 4), random_pixels(16, 4, 4)
    weight, images = model.weight.detach(), clean.float() / 255
    # lowering quality: each channel goes to the end of the range against its weight
    best = (weight * images - weight.clamp(max=0)).sum(dim=1).flatten(1).amax(dim=1)
    gains = gain(OnePixel(queries=2000, pixels=1), model, clean, "lower", Threat("l0", 1 / 16))
    assert (gains <= best + 1e-5).all()
    # of the first 40 candidates 2.5 are on each of 16 pixels: the best one is missed with e^-2.5, and evolution often finds
    # it later. Colours are cut off at the ends of the range, where the optimum is
    assert float((gains > 0.98 * best).float().mean()) >= 0.6


# --- the score boundary attack


def test_score_boundary_changes_nothing_but_edges():
    clean = torch.full((1, 3, 24, 24), 100, dtype=torch.uint8)
    clean[..., 12:] = 150
    attack = ScoreBoundary(queries=60, turns=0, edges=48 / 576)
    _, stored, _ = craft(attack, LinearModel(24, 24), clean, "raise", Threat("linf", 4 / 255))
    columns = (stored.pixels != clean).any(dim=(0, 1, 2)).nonzero().flatten().tolist()
    assert columns == [11, 12]  # the two columns that a Sobel filter answers to, 24 pixels each


@pytest.mark.parametrize("attack", [SimBA(), Parsimonious(), OnePixel(), ScoreBoundary()], ids=lambda a: a.name)
def test_more_queries_never_do_worse(attack):
    # nothing is planned by the number of queries: a longer run begins with the shorter
    threat = SMALL_THREATS["l0" if attack.name == "one-pixel" else "linf"]
    few, many = (gain(replace(attack, queries=n), LinearModel(), random_pixels(3), "raise", threat) for n in (30, 150))
    assert (many >= few).all()
    assert (many > few).any()


@pytest.mark.parametrize("kind", ["reflect", "target", "away"])
@pytest.mark.parametrize("attack", ALL, ids=lambda a: a.name)
def test_every_objective_gets_nearer(attack, kind):
    model, clean = LinearModel(), random_pixels(2)
    threat = SMALL_THREATS[attack.norms[0]]
    objective = Objective(kind, model(clean.float() / 255).detach())
    _, stored, _ = craft(replace(attack, queries=80), model, clean, kind, threat)
    after = objective.loss(model(stored.pixels.float() / 255).detach())
    assert (after < objective.loss(objective.clean)).all()


# --- parameters


@pytest.mark.parametrize(
    ("attack", "parameters"),
    [
        (Square, {"squares": 0}), (NES, {"pairs": 0}), (NES, {"tile": -1}), (NES, {"momentum": 1}), (SPSA, {"probe": 0}),
        (SimBA, {"basis": "wavelet"}), (SimBA, {"frequencies": 0}), (Parsimonious, {"block": 6}), (PatchRS, {"period": 0}),
        (OnePixel, {"population": 3}), (ScoreBoundary, {"tries": 0}), (ScoreBoundary, {"edges": 0}),
        *[(type(attack), {"queries": 0}) for attack in ALL],
    ],
)  # fmt: skip
def test_parameters_without_sense_are_refused(attack, parameters):
    with pytest.raises(ValueError, match=attack.name):
        attack(**parameters)
