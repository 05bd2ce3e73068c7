"""Attacks that are fitted beforehand: closed-form tiles of linear models, tiling, seeds, and the cost of a fit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from iqarena.attacks.base import Generators
from iqarena.attacks.cumulative_uap import CumulativeUAP
from iqarena.attacks.facpa import FACPA
from iqarena.attacks.generative_uap import GenerativeUAP
from iqarena.attacks.objective import Objective
from iqarena.attacks.random_sign import RandomSign
from iqarena.attacks.threat import Threat
from iqarena.attacks.uap import UAP
from iqarena.attacks.unet import UNet
from iqarena.attacks.universal import minibatches
from iqarena.bench.inference.target import Target, frozen
from tests.support.analytic_models import LinearModel, MeanModel
from tests.support.attack_runs import craft, fitted, random_pixels

TWO = Threat("linf", 2 / 255)
TILES = [UAP(), CumulativeUAP()]
ALL = [UAP(epochs=3, restarts=2), CumulativeUAP(epochs=3, restarts=2), GenerativeUAP(epochs=3, restarts=2), FACPA(epochs=3)]


def named(attacks):
    return [attack.name for attack in attacks]


def learn(attack, model, images, kind, threat, seed=0):
    with frozen(model):
        target = Target(model, len(images), "gradient")
        objective = Objective(kind, target.quality(images))
        return attack.fit(target, images, objective, threat, Generators([seed])), target


@pytest.mark.parametrize("attack", TILES, ids=named(TILES))
@pytest.mark.parametrize(("kind", "direction"), [("raise", 1), ("lower", -1)])
def test_best_tile_of_a_linear_model_is_the_sign_of_its_weights(attack, kind, direction):
    model, clean = LinearModel(), random_pixels(3)  # with bytes near 0 and 255, which the box stops
    best = (clean.float() + direction * 2 * model.weight.detach().sign()).clamp(0, 255).to(torch.uint8)
    _, stored, _ = craft(attack, model, clean, kind, TWO)
    assert torch.equal(stored.pixels, best)


@pytest.mark.parametrize("attack", TILES, ids=named(TILES))
def test_best_smaller_tile_is_the_sign_of_the_folded_weights(attack):
    model, clean = LinearModel(), random_pixels(2, low=10, high=246)
    folded = model.weight.detach().view(3, 2, 8, 2, 8).sum(dim=(1, 3))
    attack = replace(attack, tile=8)
    # the fit's images stay off the box, which would take some of the weights out of the sum
    fit, _ = learn(attack, model, random_pixels(8, low=10, high=246, seed=99).float() / 255, "raise", TWO)
    attacked = attack.run(None, clean.float() / 255, None, TWO, None, fit=fit)
    shift = (attacked * 255).round() - clean
    assert torch.equal(shift, (2 * folded.sign().repeat(1, 2, 2)).expand_as(shift))


@pytest.mark.parametrize("attack", TILES, ids=named(TILES))
def test_l2_tile_points_along_the_weights(attack):
    model, radius = LinearModel(), 2.0
    clean = random_pixels(3, low=90, high=166)
    weights = model.weight.detach()
    assert radius * weights.abs().max() / weights.norm() < 90 / 255, "the box must not bite"
    before = model(clean.float() / 255).detach()
    _, stored, _ = craft(attack, model, clean, "raise", Threat("l2", radius))
    gain = model(stored.pixels.float() / 255).detach() - before
    ideal = float(weights.norm() * radius)
    # rounding moves each value by at most half a level, and 2 % shortenings follow until it is inside; Adam's steps, alike
    # in every value, leave a small angle to w
    assert (gain >= 0.95 * ideal - float(weights.abs().sum()) / 2 / 255).all()
    assert (gain <= ideal + 1e-4).all()


def test_tile_is_repeated_from_the_upper_left_corner_over_images_of_any_size():
    attack, tile = UAP(), torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    shift = attack.shift({"tile": tile}, torch.zeros(2, 3, 33, 47), None, TWO)
    assert shift.shape == (2, 3, 33, 47)
    rows, columns = torch.arange(33) % 5, torch.arange(47) % 7
    assert torch.equal(shift[1], 2 / 255 * tile[:, rows][:, :, columns])
    filled = attack.shift({"tile": tile}, torch.zeros(1, 3, 33, 47), None, Threat("l2", 3.0))
    assert float(filled.norm()) == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("attack", ALL, ids=named(ALL))
def test_fit_is_the_same_to_the_last_bit_for_the_same_seed_and_no_other(attack):
    model, images = LinearModel(32, 32), random_pixels(6, 32, 32).float() / 255
    one, again, other = (learn(attack, model, images, "raise", TWO, seed)[0] for seed in (1, 1, 2))
    assert one.keys() == again.keys()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert all(value.is_contiguous() and not value.requires_grad for value in one.values())
    if isinstance(attack, GenerativeUAP | FACPA):  # from any start a linear model leaves a tile no choice
        assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("attack", ALL, ids=named(ALL))
def test_fit_sees_every_image_once_an_epoch_and_the_attack_asks_nothing(attack):
    model, images = LinearModel(), random_pixels(7).float() / 255
    fit, target = learn(attack, model, images, "raise", TWO)
    restarts = 1 if isinstance(attack, FACPA) else 2
    looks = 0 if isinstance(attack, FACPA) else 2  # at the tile that each restart ends with
    assert target.counts.forwards.tolist() == [1 + 3 * restarts + looks] * 7
    assert target.counts.backwards.tolist() == [3 * restarts] * 7
    attacked = attack.run(None, images, Objective("raise", torch.zeros(7)), TWO, None, fit=fit)
    assert TWO.holds(attacked, images).all()
    assert attack.passes == (0, 0)


@pytest.mark.parametrize("attack", [GenerativeUAP(restarts=1), FACPA(epochs=30)], ids=["generative-uap", "facpa"])
@pytest.mark.parametrize("threat", [TWO, Threat("l2", 4.0)], ids=["linf", "l2"])
def test_network_learns_what_a_linear_model_wants(attack, threat):
    model, clean = LinearModel(), random_pixels(3, low=20, high=236)
    before = model(clean.float() / 255).detach()
    weights = model.weight.detach().abs()
    ideal = float(threat.size * (weights.sum() if threat.norm == "linf" else weights.norm()))
    _, stored, _ = craft(attack, model, clean, "raise", threat)
    _, random, _ = craft(RandomSign(), model, clean, "raise", threat)
    gain, by_chance = (model(s.pixels.float() / 255).detach() - before for s in (stored, random))
    # white weights have no texture for a convolution to find; chance gets 0 ± 0.05 of the optimum
    assert (gain > 0.25 * ideal).all(), gain / ideal
    assert (gain > by_chance).all()


def test_facpa_follows_a_direction_that_depends_on_the_image():
    # dark images are to be brightened and bright ones darkened, each by two levels
    dark, bright = random_pixels(6, 32, 32, low=20, high=120), random_pixels(6, 32, 32, seed=1, low=136, high=236)
    model = MeanModel()
    fit, _ = learn(FACPA(epochs=20), model, torch.cat([dark, bright]).float() / 255, "away", TWO)
    others = torch.cat([random_pixels(2, 32, 32, 5, 20, 120), random_pixels(2, 32, 32, 6, 136, 236)]).float() / 255
    objective = Objective("away", model(others))
    moved = model(FACPA().run(None, others, objective, TWO, None, fit=fit)) - objective.clean
    assert (moved[:2] > 0.9 * TWO.size).all()
    assert (moved[2:] < -0.9 * TWO.size).all()


def test_network_keeps_images_apart_and_the_edge_of_odd_ones():
    torch.manual_seed(0)
    network = UNet(8).double()
    images = torch.rand(3, 3, 33, 47, dtype=torch.float64)
    together = network(images)
    assert together.shape == images.shape
    assert float(together.detach().abs().max()) < 1
    assert torch.allclose(together[1:2], network(images[1:2]), atol=1e-12)


def test_minibatches_hold_every_image_once_an_epoch_in_another_order_each():
    drawn = list(minibatches(10, 4, 3, Generators([0])))
    epochs = [torch.cat([index for index, _ in drawn[start : start + 3]]) for start in (0, 3, 6)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert [rate for _, rate in drawn] == pytest.approx([1 - step / 9 for step in range(9)])


@pytest.mark.parametrize(
    ("attack", "parameters"),
    [
        (UAP, {"tile": 0}),
        (UAP, {"learning_rate": 0}),
        (CumulativeUAP, {"epochs": 0}),
        (CumulativeUAP, {"step_size": math.nan}),
        (GenerativeUAP, {"width": 6}),
        (FACPA, {"batch": 0}),
        (FACPA, {"learning_rate": -1}),
    ],
)
def test_parameters_without_sense_are_refused(attack, parameters):
    with pytest.raises(ValueError, match=f"{attack.name}: .* must be"):
        attack(**parameters)


@pytest.mark.parametrize("attack", TILES, ids=named(TILES))
def test_the_best_of_several_restarts_counts(attack):
    class TwoSummits(LinearModel):
        """A model whose score rises gently along w and, beyond a dip, three times as steeply against it."""

        def forward(self, images):
            along = (self.weight * (images - 128 / 255)).sum(dim=(1, 2, 3))
            return torch.maximum(along, -3 * along - 0.004)

    model, grey = TwoSummits(), torch.full((4, 3, 16, 16), 128 / 255)
    signs = model.weight.detach().sign()
    for restarts, direction in (
        (1, 1),
        (8, -1),
    ):  # from zero the gentle side is uphill; of random starts a third lies beyond
        fit, _ = learn(replace(attack, restarts=restarts), model, grey, "raise", TWO)
        assert torch.equal(fit["tile"].sign(), direction * signs)


def test_a_fitted_attack_without_a_fit_says_so():
    model, clean = LinearModel(), random_pixels(1)
    with pytest.raises(ValueError, match="fitted first"):
        UAP().run(Target(model, 1, "gradient"), clean.float() / 255, Objective("raise", torch.zeros(1)), TWO, None)
    assert fitted(UAP(epochs=1), model, clean, "raise", TWO)["tile"].shape == (3, 16, 16)
