"""Attacks on models whose best attack is known in closed form.

On a linear model with weights w the best image for `lower` inside the ℓ∞ ball of k/255 is clip(x − k/255·sign(w)). It
lies on the 8-bit grid, so an attack that finds it leaves exactly those bytes: the comparisons below have no tolerance.
"""

from __future__ import annotations

import pytest
import torch

from iqarena.attacks.fgsm import FGSM
from iqarena.attacks.objective import Objective
from iqarena.attacks.pgd import PGD
from iqarena.attacks.random_noise import RandomNoise
from iqarena.attacks.score_reflection import ScoreReflection, ScoreReflectionAway
from iqarena.attacks.square import Square
from iqarena.attacks.threat import Threat
from iqarena.bench.inference.target import Target, frozen
from iqarena.bench.registry import ATTACKS
from tests.support.analytic_models import LinearModel, MeanModel, QuadraticModel
from tests.support.attack_runs import craft, moved_by_sign, one_by_one, random_pixels

TWO = Threat("linf", 2 / 255)
LINF_OPTIMAL = [
    "fgsm",
    "pgd",
    "torchattacks:PGD",
    "torchattacks:BIM",
    "art:ProjectedGradientDescent[max_iter=10]",
    "art:BasicIterativeMethod[max_iter=10]",
    "art:FastGradientMethod",
]


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("spec", LINF_OPTIMAL)
def test_gradient_attack_reaches_the_linf_optimum_of_a_linear_model_byte_by_byte(spec, levels):
    model, attack = LinearModel(), ATTACKS.build(spec)
    clean = random_pixels(3)  # with bytes near 0 and 255, so that the box matters
    threat = Threat("linf", levels / 255)
    for kind, direction in (("lower", -1), ("raise", 1)):
        pixels = one_by_one(attack, model, clean, kind, threat)
        assert torch.equal(pixels, moved_by_sign(clean, model, direction * levels)), kind


def test_reflection_away_reaches_the_optimum_on_the_far_side_of_the_mirror():
    model = LinearModel()
    clean = random_pixels(6)
    quality = model(clean.float() / 255).detach()
    direction = torch.where(quality <= 0.5, 1, -1)
    assert len(set(direction.tolist())) == 2, "the case needs images on both sides of the mirror"
    _, stored, _ = craft(ScoreReflectionAway(), model, clean, "away", TWO)
    assert torch.equal(stored.pixels, moved_by_sign(clean, model, 2 * direction))


@pytest.mark.parametrize("attack", [FGSM(), PGD()], ids=["fgsm", "pgd"])
def test_mean_model_is_lowered_by_the_whole_radius(attack):
    clean = random_pixels(2, 24, 20, low=10, high=246)
    _, stored, _ = craft(attack, MeanModel(), clean, "lower", TWO)
    assert torch.equal(stored.pixels, clean - 2)


def test_pgd_lands_on_the_maximum_of_a_quadratic_model_inside_the_ball():
    # the maximum is at x = 0.4 = 102/255; all pixels within 4 levels of it can get there
    clean = random_pixels(2, low=99, high=106)
    _, stored, _ = craft(PGD(steps=40, step_size=0.05), QuadraticModel(0.4), clean, "raise", Threat("linf", 4 / 255))
    off = (stored.pixels.int() - 102).abs()
    # a pixel one level off costs (1/255)²/768 = 2e-8 of a score near 1, where float32 steps by 6e-8: three such pixels
    # cannot be told from none, and the attack keeps the first iterate that nothing later beats
    assert off.max() <= 1
    assert off.flatten(1).sum(dim=1).max() <= 3


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=40)], ids=["fgsm", "pgd"])
def test_l2_attack_gains_the_norm_of_the_weights_times_the_radius(attack):
    model, radius = LinearModel(), 2.0
    clean = random_pixels(3, low=90, high=166)
    weights = model.weight.detach().flatten()
    # the box must not bite: the largest step is the radius times the largest share of a weight
    assert radius * weights.abs().max() / weights.norm() < 90 / 255
    before = model(clean.float() / 255).detach()
    _, stored, _ = craft(attack, model, clean, "lower", Threat("l2", radius))
    gain = before - model(stored.pixels.float() / 255).detach()
    ideal = float(weights.norm() * radius)
    # rounding toward the clean image takes less than one level from each value: at most Σ|w|/255 of the gain.
    # From a random start 40 steps of a quarter radius leave an angle of about 1.25⁻³⁸ to w: nothing beside that.
    least = ideal - float(weights.abs().sum()) / 255
    assert least > 0.9 * ideal, "the case must leave the rounding little room"
    assert (gain >= least - 1e-4).all()
    assert (gain <= ideal + 1e-4).all()


@pytest.mark.parametrize("attack", [ScoreReflection(), ScoreReflection(steps=40, step_size=0.05)], ids=["default", "fine"])
def test_score_reflection_reaches_the_mirrored_quality_of_a_linear_model(attack):
    reach, radius = 10.0, 8 / 255
    model = LinearModel(reach=reach)
    clean = random_pixels(6, low=90, high=166)
    before = model(clean.float() / 255).detach()
    assert ((1 - 2 * before).abs() < 0.9 * radius * reach).all(), "the mirrored quality must be within reach"
    _, stored, _ = craft(attack, model, clean, "reflect", Threat("linf", radius))
    after = model(stored.pixels.float() / 255).detach()
    # a step moves quality by step_size·radius·Σ|w|, so the nearest iterate is within half of that;
    # rounding to bytes moves each value by at most half a level, quality by at most Σ|w|/2/255
    tolerance = reach * (attack.step_size * radius / 2 + 0.5 / 255) + 1e-4
    assert ((after - (1 - before)).abs() <= tolerance).all()


@pytest.mark.parametrize("steps", [9, 10])
def test_the_best_iterate_counts_and_not_the_last(steps):
    reach, radius = 10.0, 8 / 255
    model, clean = LinearModel(reach=reach), random_pixels(6, low=90, high=166)
    before = model(clean.float() / 255).detach()
    _, stored, _ = craft(ScoreReflection(steps=steps), model, clean, "reflect", Threat("linf", radius))
    after = model(stored.pixels.float() / 255).detach()
    # steps of two whole levels: nothing is rounded, so the best of the iterates on both sides of the aim is within half a
    # step of it. The last one is on the farther side after 9 steps or after 10
    assert ((after - (1 - before)).abs() <= reach * 0.25 * radius / 2 + 1e-4).all()


def test_the_last_step_is_judged_as_it_will_be_stored():
    class Cubic(MeanModel):
        """The cubic t(t + 1)(t + 2.3) of the distance t from level 100: below 0 beyond −2.3 levels, above 0 at −2."""

        def forward(self, images):
            t = super().forward(images) * 255 - 100
            return t * (t + 1) * (t + 2.3)

    clean = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    _, stored, _ = craft(FGSM(), Cubic(), clean, "lower", Threat("linf", 0.01))  # 2.55 levels, of which two can be stored
    assert torch.equal(stored.pixels, clean), "the clean image is better than what the step would leave"


@pytest.mark.parametrize("mirror", ["mean", "label"])
def test_score_reflection_folds_about_the_mirror_that_it_is_given(mirror):
    reach, radius = 10.0, 8 / 255
    model, clean = LinearModel(reach=reach), random_pixels(4, low=90, high=166)
    images = clean.float() / 255
    before = model(images).detach()
    labels = before + torch.tensor([0.05, -0.05, 0.1, -0.1])
    mean = float(before.mean()) + 0.05
    axis = labels if mirror == "label" else torch.full((4,), mean)
    assert ((2 * (axis - before)).abs() < 0.9 * radius * reach).all()
    attack = ScoreReflection(mirror=mirror, steps=40, step_size=0.05)
    with frozen(model):
        target = Target(model, 4, "gradient")
        attacked = attack.run(target, images, Objective("reflect", before, mean, labels), Threat("linf", radius), None)
    tolerance = reach * (0.05 * radius / 2 + 0.5 / 255) + 1e-4  # as above
    assert ((model(attacked).detach() - (2 * axis - before)).abs() <= tolerance).all()


def test_square_beats_random_noise_and_stays_below_the_optimum():
    model, clean = LinearModel(), random_pixels(4)
    before = model(clean.float() / 255).detach()
    gains = {}
    for attack in (Square(queries=300), RandomNoise()):
        _, stored, _ = craft(attack, model, clean, "lower", TWO)
        gains[attack.name] = before - model(stored.pixels.float() / 255).detach()
    best = before - model(moved_by_sign(clean, model, -2).float() / 255).detach()
    # noise is unbiased: its gain is about ε·‖w‖, some 4 % of the optimum; 300 accepted-if-better squares do far more
    assert (gains["square"] > gains["random-noise"] + 0.1 * best).all()
    assert (gains["square"] <= best + 1e-5).all()
