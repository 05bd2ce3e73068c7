"""Bridges to other attack libraries against closed forms on a linear model, and which attacks are refused and why.

On a linear model of weights w the least change that moves quality by a is a·w/‖w‖² in ℓ2, of norm a/‖w‖, and a·sign(w)/‖w‖₁
in ℓ∞, of norm a/‖w‖₁; in ℓ1 it is in the heaviest value alone, of norm a/max|w|. The images stay clear of the box.
"""

from __future__ import annotations

import inspect
import random

import numpy as np
import pytest
import torch

from iqarena.attacks.base import Generators
from iqarena.attacks.bridges.art import ART
from iqarena.attacks.bridges.library import Head, Losses, gain, margin, rank
from iqarena.attacks.bridges.torchattacks import TorchAttacks
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Threat
from iqarena.bench.errors import UserError
from iqarena.bench.inference.target import Target, TargetError, frozen
from iqarena.bench.registry import ATTACKS
from tests.support.analytic_models import LinearModel
from tests.support.attack_runs import SEARCHES, craft, random_pixels

TWO = Threat("linf", 2 / 255)
WIDE = {"linf": Threat("linf", 0.05), "l2": Threat("l2", 2.0), "l0": Threat("l0", 0.2)}
"""Threat models with room for the least changes, even for changes three times as long."""
AMOUNT = 0.1
PREFIXES = {"torchattacks": TorchAttacks, "art": ART}
NAMES = [name for name in ATTACKS.names() if name.partition(":")[0] in PREFIXES]
EXACT = [
    "FGSM", "BIM", "RFGSM", "FFGSM", "PGD", "UPGD", "EOTPGD", "MIFGSM", "NIFGSM", "SINIFGSM", "VMIFGSM", "VNIFGSM", "DIFGSM",
    "TIFGSM", "PIFGSM", "PIFGSMPP", "PGDL2",
]  # fmt: skip


def clear(count=1, size=16):
    """Return images whose values can move 60 levels in either direction."""
    return random_pixels(count, size, size, low=60, high=196)


def library_change(attack, model, clean, kind, threat):
    """Return the library's own change (1, 3, H, W), neither projected nor rounded, the clean quality, and the target."""
    images = clean.float() / 255
    with frozen(model):
        target = Target(model, 1, attack.access)
        objective = Objective(kind, target.quality(images))
        attacked = attack.craft_seeded(target, images, objective, threat, Generators([1]))
        moved = (objective.loss(objective.clean) - objective.loss(model(attacked))).item()
    return (attacked - images).double(), moved, target


# --- heads


@pytest.mark.parametrize("kind", ["raise", "lower", "away"])
@pytest.mark.parametrize("amount", [0.02, 0.3])
def test_the_margin_flips_exactly_where_quality_has_moved_by_the_amount(kind, amount):
    model, images = LinearModel(), clear().float() / 255
    weight = model.weight.detach()
    with frozen(model):
        target = Target(model, 1, "gradient")
        objective = Objective(kind, model(images))
        head = Head(Losses(target, objective, "gradient"), objective, margin(amount))
        direction = 1 if kind == "raise" or (kind == "away" and objective.clean.item() <= 0.5) else -1
        for share, flipped in ((0.0, False), (0.99, False), (1.01, True), (-1.01, False)):
            moved = images + direction * share * amount * weight / weight.square().sum()
            assert bool(head(moved).argmax(dim=1)) is flipped, share


def test_the_rank_head_never_flips_and_orders_images_by_their_loss():
    model, images = LinearModel(), random_pixels(40).float() / 255
    with frozen(model):
        objective = Objective("lower", model(images[:1]))
        head = Head(Losses(Target(model, 1, "score"), objective, "score"), objective, rank)
        z = head(images) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
        quality = model(images)
    assert (z > 0).all()
    assert torch.equal(z.argsort(), quality.argsort())


def test_the_gain_head_calls_any_gain_a_success():
    model, images = LinearModel(), clear().float() / 255
    weight = model.weight.detach()
    with frozen(model):
        objective = Objective("raise", model(images))
        head = Head(Losses(Target(model, 1, "score"), objective, "score"), objective, gain)
        assert head(images).argmax() == 0
        assert head(images + 1e-3 * weight.sign()).argmax() == 1
        assert head(images - 1e-3 * weight.sign()).argmax() == 0


def test_candidates_for_one_image_are_each_counted():
    model, images = LinearModel(), clear().float() / 255
    with frozen(model):
        target = Target(model, 1, "score")
        losses = Losses(target, Objective("lower", model(images)), "score")
        result = losses(images.repeat(7, 1, 1, 1))
    assert target.counts.forwards.tolist() == [7]
    assert torch.allclose(result, model(images).detach().expand(7))


# --- exact ones


@pytest.mark.parametrize("variant", EXACT)
@pytest.mark.parametrize(("kind", "direction"), [("raise", 1), ("lower", -1)])
def test_the_exact_classes_follow_the_weights(variant, kind, direction):
    model, clean = LinearModel(), clear()
    attack = ATTACKS.build(f"torchattacks:{variant}")
    threat = Threat(attack.norms[0], 2 / 255 if attack.norms[0] == "linf" else 1.0)
    change, moved, _ = library_change(attack, model, clean, kind, threat)
    weight = direction * model.weight.detach().double()
    if variant == "PGDL2":
        ideal = float(weight.norm()) * threat.size
        # ten steps of a quarter ball from within it: what is orthogonal to w shrinks by 1.25 a step once the ball is reached
        least = 0.95
    else:
        ideal = float(weight.abs().sum()) * threat.size
        # white weights: smoothing (TIFGSM), resizing (DIFGSM) and spreading (PIFGSMPP) keep part of the signs; FFGSM makes
        # one step from a random start, which fills 0.859 of the ball on average; the other classes reach every sign
        least = {"TIFGSM": 0.15, "DIFGSM": 0.5, "PIFGSMPP": 0.4, "FFGSM": 0.82}.get(variant, 0.9999)
    assert least * ideal <= moved <= ideal * (1 + 1e-4)
    if least == 0.9999:
        assert torch.equal(change[0].sign(), weight.sign())


def test_pgdl2_stores_what_the_closed_form_leaves():
    model, clean = LinearModel(), clear(3)
    before = model(clean.float() / 255).detach()
    for i in range(3):
        _, stored, _ = craft(
            ATTACKS.build("torchattacks:PGDL2[steps=40]"), model, clean[i : i + 1], "lower", Threat("l2", 2.0), [i]
        )
        gained = before[i] - model(stored.pixels.float() / 255).detach()
        weight = model.weight.detach()
        # rounding takes less than one level from each value
        least = 2 * weight.norm() - weight.abs().sum() / 255
        assert least - 1e-4 <= gained <= 2 * weight.norm() + 1e-4


# --- attacks that fill the ball


@pytest.mark.parametrize(
    ("spec", "norm", "least"),
    [
        # all signs and directions are found, and a linear model has no other optimum
        ("torchattacks:APGD", "linf", 0.999), ("torchattacks:APGD", "l2", 0.99),
        ("art:AutoProjectedGradientDescent", "linf", 0.999), ("art:AutoProjectedGradientDescent", "l2", 0.99),
        ("art:AutoConjugateGradient", "l2", 0.99), ("art:RescalingAutoConjugateGradient", "l2", 0.99),
        # scores only: random search finds the signs of this share of the 768 values; a random change gains 0 ± 0.05
        ("torchattacks:Square", "linf", 0.4), ("torchattacks:Square", "l2", 0.25), ("torchattacks:SPSA", "linf", 0.4),
        ("art:SquareAttack", "linf", 0.3), ("art:SimBA", "linf", 0.5), ("art:SimBA", "l2", 0.4),
    ],
)  # fmt: skip
def test_ball_filling_attack_gains_its_share_of_the_optimum(spec, norm, least):
    model, clean = LinearModel(), clear()
    threat = Threat(norm, {"linf": 2 / 255, "l2": 1.0}[norm])
    weight = model.weight.detach()
    ideal = threat.size * float(weight.abs().sum() if norm == "linf" else weight.norm())
    _, moved, target = library_change(ATTACKS.build(spec), model, clean, "raise", threat)
    assert least * ideal <= moved <= ideal * (1 + 1e-3)
    assert int(target.counts.forwards) <= 3000


def test_apgd_finds_a_linear_models_best_bytes():
    model, clean = LinearModel(), clear()
    for kind, direction in (("raise", 1), ("lower", -1)):
        for spec in ("torchattacks:APGD[steps=20]", "art:AutoProjectedGradientDescent"):
            _, stored, _ = craft(ATTACKS.build(spec), model, clean, kind, TWO)
            assert torch.equal(
                stored.pixels, (clean.float() + 2 * direction * model.weight.detach().sign()).to(torch.uint8)
            ), spec


@pytest.mark.parametrize(("spec", "least"), [("torchattacks:OnePixel", 0.25), ("torchattacks:Pixle", 0.25)])
def test_pixel_search_gains_its_share_of_the_best_pixels(spec, least):
    model, clean = LinearModel(), random_pixels(1)
    threat = Threat("l0", 0.02)  # five pixels of 256
    images, weight = clean.float() / 255, model.weight.detach()
    room = torch.where(weight > 0, 1 - images[0], images[0])
    best = float((weight.abs() * room).sum(dim=0).flatten().topk(5).values.sum())
    _, moved, _ = library_change(ATTACKS.build(spec), model, clean, "raise", threat)
    # five pixels at random places in random colours gain 0 ± 0.1 of the best
    assert least * best <= moved <= best * (1 + 1e-4)


# --- least norm


@pytest.mark.parametrize("kind", ["raise", "lower"])
@pytest.mark.parametrize(
    ("spec", "norm", "most"),
    [
        # their own overshoot of 2 %, 5 % and 10⁻⁶
        ("torchattacks:DeepFool", "l2", 1.03), ("torchattacks:FAB", "linf", 1.06), ("torchattacks:FAB", "l2", 1.06),
        ("art:DeepFool", "l2", 1.01), ("art:NewtonFool", "l2", 1.01),
        # Adam or a line search stops short of the optimum; the constant is searched or given
        ("torchattacks:CW", "l2", 1.5), ("art:CarliniL2Method", "l2", 1.5), ("art:CarliniLInfMethod", "linf", 1.5),
        # β trades ℓ2 for ℓ1
        ("torchattacks:EADEN", "l2", 1.5), ("art:ElasticNet", "l2", 1.3),
        # decisions only
        ("art:HopSkipJump", "l2", 3), ("art:HopSkipJump", "linf", 3), ("art:BoundaryAttack", "l2", 3),
        ("art:SignOPTAttack", "l2", 3),
    ],
)  # fmt: skip
def test_least_norm_attack_comes_near_the_least_norm(spec, norm, most, kind):
    model = LinearModel()
    weight = model.weight.detach().double()
    least = AMOUNT / float(weight.abs().sum() if norm == "linf" else weight.norm())
    change, moved, target = library_change(ATTACKS.build(spec), model, clear(), kind, WIDE[norm])
    length = float(change.abs().max() if norm == "linf" else change.norm())
    assert moved >= AMOUNT * (1 - 1e-3)
    assert least * (1 - 1e-3) <= length <= most * least
    assert int(target.counts.forwards) <= 3500


@pytest.mark.parametrize("kind", ["raise", "lower"])
def test_the_l1_attack_comes_near_the_least_l1_norm(kind):
    model = LinearModel()
    least = AMOUNT / model.weight.detach().abs().max().item()
    change, moved, _ = library_change(ATTACKS.build("torchattacks:EADL1"), model, clear(), kind, WIDE["l0"])
    assert moved >= AMOUNT * (1 - 1e-3)
    # the heaviest values run into the box, and shrinkage keeps a rest in the others
    assert least * (1 - 1e-3) <= float(change.abs().sum()) <= 1.5 * least


@pytest.mark.parametrize("amount", [0.03, 0.2])
@pytest.mark.parametrize("spec", ["torchattacks:DeepFool", "torchattacks:FAB", "art:CarliniL2Method"])
def test_the_amount_is_a_parameter_of_the_bridge(spec, amount):
    model = LinearModel()
    _, moved, _ = library_change(ATTACKS.build(f"{spec}[amount={amount}]"), model, clear(), "raise", WIDE["l2"])
    assert amount * (1 - 1e-3) <= moved <= 1.3 * amount


@pytest.mark.parametrize("spec", ["torchattacks:DeepFool", "torchattacks:FAB", "art:NewtonFool"])
def test_a_least_change_that_rounding_would_undo_is_lengthened_until_it_counts(spec):
    # ‖w‖₁ = 400: 0.02 is reached by changes of 0.02·|w|/‖w‖², below half a level everywhere
    model, clean = LinearModel(48, 48, reach=400.0), clear(size=48)
    change, _, _ = library_change(ATTACKS.build(f"{spec}[amount=0.02]"), model, clean, "raise", WIDE["l2"])
    assert change.abs().max() < 0.5 / 255, "the case must be one that rounding undoes"
    _, stored, _ = craft(ATTACKS.build(f"{spec}[amount=0.02]"), model, clean, "raise", WIDE["l2"])
    images = clean.float() / 255
    moved = model(stored.pixels.float() / 255) - model(images)
    assert moved.item() >= 0.02
    # no longer than needed: the length before it, shorter by 1.3, did not move the stored image by the amount
    assert WIDE["l2"].distance(stored.pixels.float() / 255, images).item() < 0.25 * WIDE["l2"].size


@pytest.mark.parametrize("spec", ["torchattacks:DeepFool", "torchattacks:CW", "art:DeepFool", "art:ElasticNet"])
def test_what_the_ball_cannot_hold_is_projected_into_it(spec):
    model, clean, threat = LinearModel(), clear(), Threat("l2", 0.1)  # the least norm is 0.22
    _, stored, _ = craft(ATTACKS.build(spec), model, clean, "lower", threat)
    assert threat.holds(stored.pixels.float() / 255, clean.float() / 255).all()
    moved = model(clean.float() / 255) - model(stored.pixels.float() / 255)
    assert moved.item() <= threat.size * model.weight.norm().item() + 1e-5
    if spec != "torchattacks:CW":  # whose constant is enough for what the ball can hold, and no more
        assert moved.item() > 0


def test_a_decision_based_attack_without_a_start_leaves_the_image():
    model, clean = LinearModel(reach=0.1), clear()  # no image at all is better by 0.1
    for spec in ("art:HopSkipJump", "art:BoundaryAttack", "art:SignOPTAttack[num_trial=20]"):
        _, stored, target = craft(ATTACKS.build(spec), model, clean, "raise", Threat("l2", 1.0))
        assert torch.equal(stored.pixels, clean), spec
        assert int(target.counts.forwards) < 150, spec


# --- conduct


@pytest.mark.parametrize("name", SEARCHES)
def test_search_asks_for_scores_alone_and_is_counted(name):
    attack, model = ATTACKS.build(name + SEARCHES[name]), LinearModel()
    calls = []
    model.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    _, _, target = craft(attack, model, clear(), "lower", WIDE[attack.norms[0]])
    assert attack.access == "score"
    assert target.counts.forwards.tolist() == [sum(calls)]
    assert target.counts.backwards.tolist() == [0]
    with pytest.raises(TargetError, match="gradient"):
        Losses(target, Objective("lower", torch.zeros(1)), "gradient")


@pytest.mark.parametrize("name", [*SEARCHES, "torchattacks:APGD", "torchattacks:FAB", "art:AutoProjectedGradientDescent"])
def test_the_seed_decides_and_the_global_streams_are_left_as_they_were(name):
    attack, model, clean = ATTACKS.build(name + SEARCHES.get(name, "")), LinearModel(), clear()
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        random.seed(noise)
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        results.append(craft(attack, model, clean, "lower", WIDE[attack.norms[0]], [7])[1].pixels)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert torch.equal(*results)


@pytest.mark.parametrize("name", [name for name in NAMES if "[" not in SEARCHES.get(name, "")])
def test_gradients_in_another_memory_format_and_flat_images_are_no_trouble(name):
    class Last(LinearModel):
        """A linear model whose gradients come in channels-last layout, as those of convolutions on some machines."""

        def forward(self, images):
            return super().forward(images.contiguous(memory_format=torch.channels_last))

    attack, model = ATTACKS.build(name), Last(12, 12)
    threat = WIDE[attack.norms[0]]
    if attack.refusal(threat, 12, 12):
        pytest.skip("not at this size")
    for value in (0, 128):
        attacked, stored, _ = craft(attack, model, torch.full((1, 3, 12, 12), value, dtype=torch.uint8), "raise", threat)
        assert attacked.isfinite().all()
        assert not stored.left_ball.any()


# --- what is offered and what is not


def offered(prefix):
    return {name.partition(":")[2] for name in NAMES if name.startswith(prefix + ":")}


def public_attacks(prefix):
    if prefix == "torchattacks":
        import torchattacks as library
        from torchattacks.attack import Attack as base
    else:
        from art.attacks import EvasionAttack as base
        from art.attacks import evasion as library
    names = {name for name, cls in vars(library).items() if inspect.isclass(cls) and issubclass(cls, base)}
    return names | set(getattr(library, "__all__", []))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_attack_of_the_library_is_offered_or_refused(prefix):
    refused = set(PREFIXES[prefix].refused())
    assert not offered(prefix) & refused
    assert public_attacks(prefix) <= offered(prefix) | refused
    assert offered(prefix) <= public_attacks(prefix)


@pytest.mark.parametrize(("prefix", "variant"), [(p, v) for p in PREFIXES for v in PREFIXES[p].refused()])
def test_what_is_refused_says_why(prefix, variant):
    reason = PREFIXES[prefix].refused()[variant]
    with pytest.raises(ValueError, match="is not offered") as caught:
        PREFIXES[prefix](variant=variant)
    assert str(caught.value).endswith(reason)
    with pytest.raises(UserError, match="is not offered"):
        ATTACKS.build(f"{prefix}:{variant}")


def test_the_seventeen_exact_ones_are_there():
    assert len(EXACT) == 17
    assert set(EXACT) <= offered("torchattacks")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("torchattacks:CW[amount=0]", "change of quality"),
        ("art:DeepFool[amount=2]", "change of quality"),
        ("torchattacks:FAB[amount=much]", "change of quality"),
        ("torchattacks:PGD[eps=0.1]", "set by the benchmark"),
        ("torchattacks:APGD[loss=dlr]", "set by the benchmark"),
        ("art:HopSkipJump[norm=2]", "set by the benchmark"),
        ("torchattacks:CWW", "available are"),
        ("art:Nothing", "available are"),
    ],
)
def test_parameters_without_sense_are_refused(spec, expected):
    with pytest.raises(UserError, match=expected):
        ATTACKS.build(spec)


def test_shapes_that_a_library_cannot_take_are_refused_beforehand():
    assert "square" in ATTACKS.build("torchattacks:Pixle").refusal(WIDE["l0"], 24, 20)
    assert "tile" in ATTACKS.build("torchattacks:Square").refusal(WIDE["l2"], 24, 20)
    assert not ATTACKS.build("torchattacks:Square").refusal(WIDE["l2"], 192, 192)
    assert not ATTACKS.build("torchattacks:Square").refusal(WIDE["linf"], 24, 20)
