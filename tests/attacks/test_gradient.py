"""The variants of FGSM, and DDN: models with closed forms, torchattacks' classes at equal parameters, identities.

Where bytes are compared with torchattacks, a step is two whole levels: nothing is rounded on the way, so both take their
gradients at the same images, and the quality of the network below rises at each step, so the last one is the best.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torchattacks

from iqarena.attacks.ami_fgsm import AMIFGSM
from iqarena.attacks.base import Generators
from iqarena.attacks.ddn import DDN
from iqarena.attacks.di_fgsm import DIFGSM
from iqarena.attacks.i_fgsm import IFGSM
from iqarena.attacks.mi_fgsm import MIFGSM
from iqarena.attacks.ni_fgsm import NIFGSM
from iqarena.attacks.objective import Objective
from iqarena.attacks.pgd_l2 import PGDL2
from iqarena.attacks.score_reflection import ScoreReflectionFGSM
from iqarena.attacks.threat import Threat
from iqarena.attacks.ti_fgsm import TIFGSM
from iqarena.attacks.vmi_fgsm import VMIFGSM
from iqarena.bench.inference.target import Target, frozen
from iqarena.models.base import ModelInfo, QualityModel
from tests.support.analytic_models import LinearModel, QuadraticModel
from tests.support.attack_runs import craft, random_pixels

EIGHT = Threat("linf", 8 / 255)
MOMENTUM = [IFGSM, MIFGSM, AMIFGSM, NIFGSM, VMIFGSM]
EVERY = [*MOMENTUM, DIFGSM, TIFGSM, PGDL2, ScoreReflectionFGSM, DDN]


class Net(QualityModel):
    """Two small convolutions with a nonlinearity between them, in float64, so that no gradient sign is a rounding error."""

    info = ModelInfo("net", min_size=1)

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.first = torch.nn.Parameter(3 * torch.randn(8, 3, 3, 3, generator=draw).double())
        self.second = torch.nn.Parameter(torch.randn(1, 8, 3, 3, generator=draw).double())

    def forward(self, images):
        bent = torch.tanh(torch.nn.functional.conv2d(images.double() - 0.5, self.first, padding=1))
        return torch.sigmoid(torch.nn.functional.conv2d(bent, self.second, padding=1).mean(dim=(1, 2, 3)))


class Flat(QuadraticModel):
    """The quadratic model, which records the mean level of each image that it scores."""

    def __init__(self) -> None:
        super().__init__(100 / 255)
        self.shown: list[float] = []

    def forward(self, images):
        self.shown.append(round(float(images.detach().mean()) * 255, 3))
        return super().forward(images)


class Constant(QualityModel):
    """A constant score of one half, with a gradient of zeros."""

    info = ModelInfo("constant", min_size=1)

    def forward(self, images):
        return 0.5 + 0 * images.mean(dim=(1, 2, 3))


class Logits(torch.nn.Module):
    """Logits [ℓ, 0], whose cross-entropy with the soft label [1, −1] is −ℓ."""

    def __init__(self, losses) -> None:
        super().__init__()
        self.losses = losses
        self.anchor = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, images):
        losses = self.losses(images)
        return torch.stack([losses, torch.zeros_like(losses)], dim=1)


def theirs(name, model, clean, kind, **parameters):
    """Run torchattacks' class in the ball of 8/255 with steps of 2/255, image by image; return the pixels."""
    attacked_images = []
    for pixels in clean:
        image = pixels[None].float() / 255
        with frozen(model), torch.random.fork_rng():
            torch.manual_seed(0)
            target = Target(model, 1, "gradient")
            loss = Objective(kind, model(image)).loss
            attack = getattr(torchattacks, name)(Logits(target.module(loss)), eps=8 / 255, alpha=2 / 255, **parameters)
            attacked_images.append((attack(image, torch.tensor([[1.0, -1.0]])) * 255).round().to(torch.uint8))
    return torch.cat(attacked_images)


def pixels(attack, model, clean, kind, threat):
    return craft(attack, model, clean, kind, threat)[1].pixels


def moved(stored, model, clean):
    """Return the increase of quality, (N,)."""
    return (model(stored.float() / 255) - model(clean.float() / 255)).detach()


def lengths(stored, clean):
    """Return the Euclidean length of each change in units of [0, 1]."""
    return (stored.double() - clean.double()).flatten(1).norm(dim=1) / 255


def first_kind(attack):
    return attack.objectives[0]


# --- closed forms


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("attack", MOMENTUM)
def test_momentum_attack_reaches_the_linf_optimum_of_a_linear_model_byte_by_byte(attack, levels):
    model, clean = LinearModel(), random_pixels(3)
    for kind, direction in (("lower", -1), ("raise", 1)):
        best = (clean.float() + direction * levels * model.weight.detach().sign()).clamp(0, 255).to(torch.uint8)
        assert torch.equal(pixels(attack(), model, clean, kind, Threat("linf", levels / 255)), best)


@pytest.mark.parametrize("attack", [*MOMENTUM, PGDL2])
def test_l2_steps_gain_the_norm_of_the_weights_times_the_radius(attack):
    model, radius = LinearModel(), 2.0
    clean = random_pixels(3, low=90, high=166)
    weights = model.weight.detach()
    stored = pixels(attack(steps=40), model, clean, "raise", Threat("l2", radius))
    ideal = float(weights.norm() * radius)
    # rounding takes less than half a level from each value; what a random start leaves after 40 steps is nothing beside that
    assert (moved(stored, model, clean) >= ideal - float(weights.abs().sum()) / 255 / 2 - 1e-4).all()
    assert (lengths(stored, clean) <= radius + 1e-9).all()


@pytest.mark.parametrize(
    ("attack", "levels"),
    [
        # normalised: 1, 1.9, 2.71, 3.44 to the left, then −1 each: 2.10, 0.89, −0.20: back after the seventh
        (MIFGSM(decay=0.9, steps=7, step_size=0.125), [107, 105, 103, 101, 99, 97, 95, 97]),
        # as they are, in levels: 7, 11.3, 13.2, 12.9, then 11.6 − 1, 9.5 − 3, 5.9 − 5, 0.8 − 7: back after the eighth
        (AMIFGSM(decay=0.9, steps=8, step_size=0.125), [107, 105, 103, 101, 99, 97, 95, 93, 95]),
        (IFGSM(steps=6, step_size=0.125), [107, 105, 103, 101, 99, 101, 99]),
    ],
    ids=["mi", "ami", "i"],
)  # fmt: skip
def test_momentum_carries_as_far_past_a_maximum_as_worked_out_by_hand(attack, levels):
    model = Flat()
    craft(attack, model, torch.full((1, 3, 8, 8), 107, dtype=torch.uint8), "raise", Threat("linf", 16 / 255))
    assert model.shown[1:] == levels  # the first one is the clean score's


def test_nesterov_looks_ahead_by_a_step_along_the_momentum():
    # all values of a flat image move alike, so each step adds ±1 to a momentum that is looked along for 2 levels × decay.
    # 107; then x = 105, v = 1: ahead 104; x = 103, v = 1.5: ahead 101.5, stored as 101 or 102; x = 101, v = 1.75: 99.25
    model = Flat()
    attack = NIFGSM(decay=0.5, steps=4, step_size=0.125)
    craft(attack, model, torch.full((1, 3, 8, 8), 107, dtype=torch.uint8), "raise", Threat("linf", 16 / 255))
    first, second, third, fourth, last = model.shown[1:]
    assert (first, second) == (107, 104)
    assert third in (101, 102)
    assert fourth == 99
    # the gradient of the fourth points back by 1 against 0.875 of momentum, so x = 101 + 2; `mi-fgsm` would go on to 99
    assert last == 103


@pytest.mark.parametrize("amount", [0.1, 0.2])
@pytest.mark.parametrize("kind", ["raise", "lower", "away"])
def test_ddn_finds_the_least_norm_that_moves_a_linear_model_by_an_amount(kind, amount):
    model, clean = LinearModel(), random_pixels(4, low=60, high=196)
    attack = DDN(amount=amount)
    stored = pixels(attack, model, clean, kind, Threat("l2", 2.0))
    before = model(clean.float() / 255).detach()
    direction = {"raise": 1, "lower": -1, "away": torch.where(before <= 0.5, 1, -1)}[kind]
    assert (direction * moved(stored, model, clean) >= amount - 1e-5).all()
    ideal = amount / float(model.weight.detach().norm())
    norms = lengths(stored, clean)
    # no shorter change moves quality by the amount (Cauchy and Schwarz). One of the lengths that are tried is less than
    # 1/(1 − γ) times the least that does it. Rounding adds noise of 1/√12 of a level to changes of 2 levels and more: some
    # 1 % to their length, and as much to what they move
    assert (norms >= ideal * (1 - 1e-4)).all()
    assert (norms <= ideal / (1 - attack.gamma) * 1.03).all()


@pytest.mark.parametrize("kind", ["raise", "lower"])
def test_ddn_finds_the_least_norm_on_a_curved_model(kind):
    center, amount = 0.4, 0.005
    model, clean = QuadraticModel(center), random_pixels(4, low=90, high=166)
    away = (clean.double() / 255 - center).flatten(1)
    # quality is 1 − r²/D at the distance r from the centre: the nearest image of another quality lies on the same ray
    radius, wanted = away.norm(dim=1), amount * away.shape[1] * (-1 if kind == "raise" else 1)
    ideal = ((radius**2 + wanted).sqrt() - radius).abs()
    attack = DDN(amount=amount)
    stored = pixels(attack, model, clean, kind, Threat("l2", 2.0))
    assert ((1 if kind == "raise" else -1) * moved(stored, model, clean) >= amount - 1e-6).all()
    norms = lengths(stored, clean)
    assert (norms >= ideal * (1 - 1e-3)).all()  # float32's 6e-8 of a quality near 1 is 1e-5 of the amount
    assert (norms <= ideal / (1 - attack.gamma) * 1.03).all()


def test_ddn_goes_as_far_as_the_ball_allows_where_the_amount_is_out_of_reach():
    model, clean, radius = LinearModel(), random_pixels(3, low=90, high=166), 0.5
    weights = model.weight.detach()
    ideal = float(weights.norm() * radius)
    stored = pixels(DDN(amount=2 * ideal), model, clean, "lower", Threat("l2", radius))
    assert (-moved(stored, model, clean) >= 0.98 * ideal).all()  # the shortening that follows rounding is by 2 %
    assert (lengths(stored, clean) <= radius + 1e-9).all()


def test_one_step_reflection_takes_the_whole_ball_or_leaves_the_image():
    model, clean = LinearModel(), random_pixels(12)
    before = model(clean.float() / 255).detach()
    direction = torch.where(before <= 0.5, 1, -1).view(-1, 1, 1, 1)
    full = (clean.float() + 8 * direction * model.weight.detach().sign()).clamp(0, 255).to(torch.uint8)
    after = model(full.float() / 255).detach()
    nearer = (after - (1 - before)).abs() < (2 * before - 1).abs()
    assert nearer.any(), "the case needs images that one step brings nearer to the mirrored quality"
    assert not nearer.all(), "and some that it carries too far"
    stored = pixels(ScoreReflectionFGSM(), model, clean, "reflect", EIGHT)
    assert torch.equal(stored, torch.where(nearer.view(-1, 1, 1, 1), full, clean))


# --- torchattacks at equal parameters


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize(
    ("attack", "name", "parameters"),
    [(IFGSM, "BIM", {}), (MIFGSM, "MIFGSM", {}), (TIFGSM, "TIFGSM", {"diversity_prob": 0})],
    ids=["i", "mi", "ti"],
)
def test_same_bytes_as_torchattacks(attack, name, parameters, steps):
    model, clean = Net(), random_pixels(1, 24, 20, low=60, high=196)
    for kind in ("raise", "lower"):
        ours = pixels(attack(steps=steps), model, clean, kind, EIGHT)
        others = theirs(name, model, clean, kind, steps=steps, **parameters)
        gain, other = moved(ours, model, clean).abs(), moved(others, model, clean).abs()
        assert (gain >= other - 1e-6).all()
        # a library's float32 logits round gradients in another order: a sign near zero may differ
        assert float((ours != others).float().mean()) < 0.005


def test_same_bytes_as_torchattacks_variance_tuning_with_the_same_draws(monkeypatch):
    model, clean = Net(), random_pixels(1, 24, 20, low=60, high=196)
    ours = pixels(VMIFGSM(steps=4), model, clean, "raise", EIGHT)  # seed 0

    class Replayed:
        """The torch module, with uniform draws taken from our stream."""

        draws = Generators([0])

        def __getattr__(self, name):
            return getattr(torch, name)

        def randn_like(self, images):
            return SimpleNamespace(uniform_=lambda low, high: self.draws.uniform(low, high, images.shape[1:]))

    monkeypatch.setattr("torchattacks.attacks.vmifgsm.torch", Replayed())
    others = theirs("VMIFGSM", model, clean, "raise", steps=4)
    assert float((ours != others).float().mean()) < 0.005
    momentum = pixels(MIFGSM(steps=4), model, clean, "raise", EIGHT)
    assert float((ours != momentum).float().mean()) > 0.02, "the case must tell tuning from none"


@pytest.mark.parametrize(
    ("attack", "name", "share"),
    # transformations and neighbours are drawn differently, so chance may favour either side
    [(NIFGSM(), "NIFGSM", 1.0), (DIFGSM(), "DIFGSM", 0.95), (VMIFGSM(), "VMIFGSM", 0.98)],
    ids=["ni", "di", "vmi"],
)
def test_as_strong_as_torchattacks(attack, name, share):
    model, clean = Net(), random_pixels(4, 24, 24, low=60, high=196)
    ours = moved(pixels(attack, model, clean, "raise", EIGHT), model, clean)
    others = moved(theirs(name, model, clean, "raise", steps=10), model, clean)
    assert float(ours.mean()) >= share * float(others.mean()) - 1e-6


def test_diverse_inputs_are_those_of_torchattacks():
    image = random_pixels(1, 20, 20).float() / 255
    library = torchattacks.DIFGSM(torch.nn.Linear(1, 1), resize_rate=0.9, diversity_prob=1.0)
    attack = DIFGSM(probability=1.0)
    places = (0.0, 0.34, 0.67)
    transformed = [
        attack.transformed(image, [0.0, size, top, left]) for size in (0.1, 0.6) for top in places for left in places
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(20):
            drawn = library.input_diversity(image)
            assert any(torch.allclose(drawn, ours, atol=1e-6) for ours in transformed)


def test_gradient_through_the_transformation_agrees_with_finite_differences():
    model, attack = Net(), DIFGSM(probability=1.0)
    images = random_pixels(2, 17, 23).float() / 255
    with frozen(model):
        target = Target(model, 2, "gradient")
        quality, gradient = attack.ask(target, images, Objective("raise", model(images)), EIGHT, Generators([4, 5]), {})
        assert quality.isnan().all()  # the scored images are not these images
        draws = Generators([4, 5]).uniform(0, 1, (4,)).tolist()
        for index in range(2):
            image, along = images[index : index + 1].double(), torch.randn(3, 17, 23).double()
            ends = [model(attack.transformed(image + h * along, draws[index])) for h in (1e-4, -1e-4)]
            slope = -float(ends[0] - ends[1]) / 2e-4
            assert slope == pytest.approx(float((gradient[index] * along).sum()), rel=1e-3, abs=1e-6)


# --- identities


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "attack",
    [MIFGSM(decay=0), NIFGSM(decay=0), AMIFGSM(decay=0, step_size=0.25), TIFGSM(kernel=1), DIFGSM(probability=0)],
    ids=["mi", "ni", "ami", "ti", "di"],
)
def test_without_its_own_parameter_it_is_iterative_fgsm(attack, norm):
    model, clean = Net(), random_pixels(2, 24, 20)
    threat = Threat(norm, 8 / 255 if norm == "linf" else 0.5)
    assert torch.equal(pixels(attack, model, clean, "lower", threat), pixels(IFGSM(), model, clean, "lower", threat))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_variance_tuning_without_a_neighbourhood_is_the_momentum_attack(norm):
    model, clean = Net(), random_pixels(2, 24, 20)
    threat = Threat(norm, 8 / 255 if norm == "linf" else 0.5)
    tuned = pixels(VMIFGSM(beta=1e-7), model, clean, "lower", threat)
    plain = pixels(MIFGSM(), model, clean, "lower", threat)
    assert float((tuned != plain).float().mean()) < 0.005  # float32 moves neighbours and their gradients by 6e-8


# --- budgets and conduct


@pytest.mark.parametrize("limit", [1, 2, 7])
@pytest.mark.parametrize("attack", EVERY)
def test_attack_keeps_to_the_query_limit_of_the_threat(attack, limit):
    norm = attack.norms[0]
    threat = Threat(norm, 2 / 255 if norm == "linf" else 0.5, limit)
    _, stored, target = craft(attack(), LinearModel(), random_pixels(2), first_kind(attack), threat)
    assert int(target.counts.forwards.max()) <= limit
    assert not stored.left_ball.any()
    if limit == 7:
        assert target.counts.backwards.min() >= 1  # and uses the whole budget


@pytest.mark.parametrize(
    "attack",
    [*(cls() for cls in EVERY), VMIFGSM(steps=3, samples=2, restarts=2), DDN(steps=7)],
    ids=lambda attack: f"{attack.name}-{attack.steps}",
)
def test_attack_costs_what_it_says(attack):
    norm = attack.norms[0]
    _, _, target = craft(
        attack, LinearModel(), random_pixels(2), first_kind(attack), Threat(norm, 2 / 255 if norm == "linf" else 0.5)
    )
    assert (target.counts.forwards - 1).tolist() == [attack.passes[0]] * 2
    assert target.counts.backwards.tolist() == [attack.passes[1]] * 2


@pytest.mark.parametrize("attack", EVERY)
def test_a_gradient_of_zeros_leaves_no_nan(attack):
    clean = random_pixels(2)
    for norm in attack.norms:
        threat = Threat(norm, 2 / 255 if norm == "linf" else 0.5)
        attacked, stored, _ = craft(attack(), Constant(), clean, first_kind(attack), threat)
        assert attacked.isfinite().all()
        assert torch.equal(stored.pixels, clean)  # nothing is better than the clean image


@pytest.mark.parametrize(
    ("attack", "parameters"),
    [(MIFGSM, {"decay": -1}), (NIFGSM, {"steps": 0}), (VMIFGSM, {"samples": 0}), (VMIFGSM, {"beta": 0}),
     (TIFGSM, {"kernel": 4}), (TIFGSM, {"kernel": 0}), (DIFGSM, {"probability": 1.5}), (DIFGSM, {"least": 0}),
     (DDN, {"amount": 0}), (DDN, {"gamma": 1}), (DDN, {"steps": 0})],
)  # fmt: skip
def test_parameters_without_sense_are_refused(attack, parameters):
    with pytest.raises(ValueError, match="must be"):
        attack(**parameters)
