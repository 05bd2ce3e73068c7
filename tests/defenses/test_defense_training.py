"""Training recipes: each loss against a hand computation on a linear model, where every inner attack has a closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from iqarena.attacks.similarity import ssim
from iqarena.bench.cli.catalogue import catalogue
from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.base import DoesNotApply, TrainedDefense
from iqarena.defenses.certified.layers import BoundedConv2d
from iqarena.defenses.training.adversarial_label import similarity
from iqarena.defenses.training.anchored import ranking_loss
from iqarena.defenses.training.ball import INNER_STEPS
from iqarena.defenses.training.free import REPLAYS
from iqarena.defenses.training.loop import Schedule, in_eval_mode, srocc, train
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.resnet_iqa import ResNetIQA
from tests.support.analytic_models import LinearModel, MeanModel
from tests.test_training import Tiny

EPSILON = 4 / 255
RECIPES = (
    "adversarial-training",
    "adversarial-training-label",
    "trades",
    "norm-regularization",
    "anchored-training",
    "free-training",
)
PASSES = {
    "adversarial-training": INNER_STEPS + 2, "adversarial-training-label": INNER_STEPS + 2, "trades": INNER_STEPS + 3,
    "norm-regularization": 3, "anchored-training": INNER_STEPS + 2, "free-training": REPLAYS,
}  # fmt: skip


@pytest.fixture
def batch() -> tuple[LinearModel, torch.Tensor, torch.Tensor]:
    """A linear model, images that no step of 4/255 takes out of the range, and labels."""
    images = 0.3 + 0.4 * torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return LinearModel(reach=20.0), images, torch.tensor([0.1, 0.4, 0.4, 0.6, 0.8, 1.0])


def moved(model: LinearModel, images: torch.Tensor, targets: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Run the inner attack by hand, on the draws of `loss_of`: a linear model's direction is sign(error)·sign(w)."""
    torch.manual_seed(5)
    shift = torch.empty_like(images).uniform_(-epsilon, epsilon).numpy()
    weight = model.weight.detach().numpy()
    for _ in range(INNER_STEPS):
        quality = 0.5 + (weight * (images.numpy() + shift - 0.5)).sum(axis=(1, 2, 3))
        direction = np.sign(quality - targets.numpy())[:, None, None, None] * np.sign(weight)
        shift = np.clip(shift + 1.25 * epsilon / INNER_STEPS * direction, -epsilon, epsilon)
    return images + torch.from_numpy(shift)


def loss_of(spec: str, batch: tuple[LinearModel, torch.Tensor, torch.Tensor], progress: float = 1.0) -> float:
    recipe = DEFENSES.build(spec)
    assert isinstance(recipe, TrainedDefense)
    torch.manual_seed(5)
    return float(recipe.loss(batch[0], batch[1], batch[2], progress).detach())


# relative tolerance: sums of 768 float32 products
CLOSE = {"rel": 1e-4}


def test_adversarial_training_is_the_error_on_clean_and_on_attacked_images(batch):
    model, images, labels = batch
    attacked = moved(model, images, labels, EPSILON)
    clean, worse = (((model(x) - labels) ** 2).mean().item() for x in (images, attacked))
    assert worse > clean
    loss = loss_of(f"adversarial-training[epsilon={EPSILON},adversarial_weight=0.5]", batch)
    assert loss == pytest.approx(clean + 0.5 * worse, **CLOSE)


def test_the_ball_grows_over_the_first_part_of_the_training(batch):
    model, images, labels = batch
    attacked = moved(model, images, labels, EPSILON * 0.16 / 0.4)
    expected = sum(((model(x) - labels) ** 2).mean().item() for x in (images, attacked))
    assert loss_of(f"adversarial-training[epsilon={EPSILON},ramp=0.4]", batch, progress=0.15) == pytest.approx(
        expected, **CLOSE
    )


def test_the_label_of_an_attacked_image_falls_by_one_minus_ssim(batch):
    model, images, labels = batch
    attacked = moved(model, images, labels, EPSILON)
    luma = np.array([0.299, 0.587, 0.114])[:, None, None]
    like = [
        structural_similarity(*((x.numpy() * luma).sum(0) for x in pair), data_range=1, gaussian_weights=True, sigma=1.5,
                              use_sample_covariance=False)
        for pair in zip(attacked.double(), images.double(), strict=True)
    ]  # fmt: skip
    lowered = (labels - 30 * (1 - torch.tensor(like))).clamp(min=0)
    assert float(lowered[0]) == 0  # 0.1 − 30·(1 − SSIM) would be below
    assert 0 < float(lowered[5]) < 0.95
    errors = ((model(images) - labels) ** 2).mean() + ((model(attacked) - lowered) ** 2).mean()
    loss = loss_of(f"adversarial-training-label[epsilon={EPSILON},penalty=30]", batch)
    assert loss == pytest.approx(errors.item(), **CLOSE)


def test_similarity_is_that_of_the_threat_model(natural):
    clean = torch.from_numpy(natural.transpose(2, 0, 1).copy())[None].float() / 255
    other = (clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    torch.testing.assert_close(similarity(other, clean), ssim(other, clean), atol=1e-5, rtol=0)
    torch.testing.assert_close(similarity(clean, clean), torch.ones(1))


def test_trades_is_the_error_on_clean_images_and_the_largest_difference(batch):
    model, images, labels = batch
    own = model(images).detach()
    attacked = moved(model, images, own, EPSILON)
    expected = ((own - labels) ** 2).mean() + 2 * ((model(attacked) - own) ** 2).mean()
    assert loss_of(f"trades[epsilon={EPSILON},beta=2]", batch) == pytest.approx(expected.item(), **CLOSE)


def test_the_inner_attack_of_trades_knows_no_label(batch):
    model, images, labels = batch
    weight_of_clean = loss_of(f"trades[epsilon={EPSILON},beta=0]", batch)
    difference = loss_of(f"trades[epsilon={EPSILON}]", batch) - weight_of_clean
    others = model, images, labels.flip(0)
    loss = loss_of(f"trades[epsilon={EPSILON}]", others) - loss_of(f"trades[epsilon={EPSILON},beta=0]", others)
    assert loss == pytest.approx(difference, rel=1e-3)


def test_norm_regularization_is_half_the_squared_l1_norm_of_the_gradient(batch):
    model, images, labels = batch
    # the finite difference of a linear model is its slope: Σ|w| = 20
    expected = ((model(images) - labels) ** 2).mean().item() + 0.01 / 2 * 20**2
    assert loss_of("norm-regularization[gradient_weight=0.01,step=0.01]", batch) == pytest.approx(expected, **CLOSE)


def test_norm_regularization_steps_in_the_published_length():
    # 0.01 of images divided by ImageNet's standard deviations of 0.229, 0.224 and 0.225
    assert DEFENSES.build("norm-regularization").step == pytest.approx(0.01 * np.mean([0.229, 0.224, 0.225]), rel=0.01)


def test_ranking_loss_pair_by_pair():
    attacked, anchors = torch.tensor([0.9, 0.2]), torch.tensor([0.5, 0.88, 0.1])
    labels, anchor_labels = torch.tensor([0.3, 0.7]), torch.tensor([0.32, 0.8, 0.3])
    expected = [
        0.02 - -1 * (0.9 - 0.5),  # should be lower, by no more than the labels' 0.02, and is higher
        0.05 - -1 * (0.9 - 0.88),
        0.0,  # equal labels
        0.05 - (0.2 - 0.5),
        0.0,  # lower by far, as it should be
        0.0,  # higher by 0.1
    ]
    loss = ranking_loss(attacked, anchors, labels, anchor_labels, 0.05)
    assert float(loss) == pytest.approx(np.mean(expected))


def test_anchored_training_ranks_attacked_images_against_clean_ones(batch):
    model, images, labels = batch
    attacked = moved(model, images, labels, EPSILON)
    ranking = ranking_loss(model(attacked), model(images), labels, labels, 0.1)
    assert ranking > 0
    expected = ((model(images) - labels) ** 2).mean() + 3 * ranking
    loss = loss_of(f"anchored-training[epsilon={EPSILON},ranking_weight=3,margin=0.1]", batch)
    assert loss == pytest.approx(expected.item(), **CLOSE)


def test_anchors_stand_still(batch):
    """The ranking loss reaches the weights through attacked images alone."""
    model, images, labels = batch
    recipe = DEFENSES.build(f"anchored-training[epsilon={EPSILON},ranking_weight=3,margin=0.1]")
    torch.manual_seed(5)
    (gradient,) = torch.autograd.grad(recipe.loss(model, images, labels, 1.0), model.weight)
    attacked = moved(model, images, labels, EPSILON)
    expected = ((model(images) - labels) ** 2).mean()
    expected = expected + 3 * ranking_loss(model(attacked), model(images).detach(), labels, labels, 0.1)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, model.weight)[0], rtol=1e-3, atol=1e-5)


def test_free_training_moves_images_by_the_gradient_of_the_weights_own_pass(batch):
    model, images, labels = batch
    recipe = DEFENSES.build(f"free-training[epsilon={EPSILON}]")
    torch.manual_seed(5)
    losses = []
    for value in recipe.losses(model, images, labels, 1.0):
        losses.append(float(value.detach()))
        value.backward()  # as the loop does; the weights stand still here
    torch.manual_seed(5)
    shift = torch.empty_like(images).uniform_(-EPSILON, EPSILON)
    expected = []
    for _ in range(REPLAYS):
        error = (model(images + shift) - labels).detach()
        expected.append(float((error**2).mean()))
        direction = error.sign().view(-1, 1, 1, 1) * model.weight.detach().sign()
        shift = (shift + EPSILON * direction).clamp(-EPSILON, EPSILON)
    assert losses == pytest.approx(expected, **CLOSE)
    # two steps of ε reach the corner of the ball from anywhere in it; there they stay
    assert expected[0] < expected[1] < expected[2]
    assert expected[3] == pytest.approx(expected[2])
    assert model.weight.grad is not None  # the same passes served the weights


class Counting(QualityModel):
    """A linear model under BatchNorm and dropout that counts the images it sees, and in which mode."""

    info = ModelInfo("counting", min_size=1)

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.linear = torch.nn.Linear(3, 1)
        self.forwards = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.forwards += len(images)
        return self.linear(self.norm(images).square().mean(dim=(2, 3)))[:, 0]


@pytest.mark.parametrize("name", RECIPES)
def test_every_pass_is_counted(name):
    """No image is scored more often than the budget allows; the model ends in training mode with unchanged buffers."""
    recipe = DEFENSES.build(name)
    assert recipe.passes_an_image == PASSES[name]
    model = Counting().train()
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for value in recipe.losses(model, images, torch.tensor([0.1, 0.3, 0.6, 0.9]), 0.5):
        value.backward()
    assert model.forwards == recipe.passes_an_image * len(images)
    assert model.training
    # inner attackers leave running statistics alone: one update for the batch, or one a replay
    assert int(model.norm.num_batches_tracked) == (REPLAYS if name == "free-training" else 1)


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_reaches_all_weights(name):
    recipe = DEFENSES.build(name)
    torch.manual_seed(0)
    model = recipe.prepare(ResNetIQA()).train()
    images = torch.rand(2, 3, 64, 64)
    for value in recipe.losses(model, images, torch.tensor([0.2, 0.9]), 0.5):
        assert value.shape == ()
        value.backward()
    for part, weight in model.named_parameters():
        assert weight.grad is not None, part
        assert torch.isfinite(weight.grad).all(), part
    assert all(float(weight.grad.abs().max()) > 0 for weight in model.parameters() if weight.ndim == 4)


class Noisy:
    """A data set of grey images under noise, in memory; the label falls with the noise."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.levels = torch.rand(64, generator=generator)
        noise = torch.randn(64, 3, 32, 32, generator=generator)
        self.images = (128 + 60 * self.levels.view(-1, 1, 1, 1) * noise).clamp(0, 255).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.levels)

    def image(self, index: int) -> torch.Tensor:
        return self.images[index]

    def part(self, index: int, choose: Callable[[int, int], tuple[int, int, int, int]]) -> torch.Tensor:
        top, left, height, width = choose(32, 32)
        return self.images[index, :, top : top + height, left : left + width]

    def mos(self, index: int) -> float:
        return 1 - float(self.levels[index])


TRAINED = sorted(
    name
    for name, entry in DEFENSES.entries.items()
    if entry.cls and issubclass(entry.cls, TrainedDefense) and name != "lipschitz"  # slower; it has a test of its own
)


@pytest.mark.parametrize("name", TRAINED)
def test_every_recipe_learns_within_its_budget(name, tmp_path):
    """Train every registered recipe in the loop itself: bf16, averaged weights, the budget up to the last batch."""
    recipe, images = DEFENSES.build(name), Noisy()
    torch.manual_seed(0)
    model = recipe.prepare(Tiny())
    budget = Schedule(passes=1280 * recipe.passes_an_image, batch=16, crop=32, learning_rate=0.02, ema=0.9, workers=0)
    facts = train(model, recipe.losses, recipe.passes_an_image, images, budget, checkpoint=tmp_path / "c")
    assert facts["steps"] == 80
    assert facts["images_seen"] == 1280
    assert facts["passes"] == budget.passes
    assert srocc(model, images) > 0.9  # noise is easy to see


@pytest.mark.parametrize("name", [*TRAINED, "lipschitz"])
def test_a_recipe_states_truthfully_what_an_image_costs(name):
    """Count forward and backward passes of the trained network at its first layer during one training batch."""
    recipe = DEFENSES.build(name)
    torch.manual_seed(0)
    model = recipe.prepare(Tiny()).train()
    first = next(part for part in model.modules() if isinstance(part, torch.nn.Conv2d | BoundedConv2d))
    forwards, backwards = [], []

    def count(layer: torch.nn.Module, images: tuple[torch.Tensor], maps: torch.Tensor) -> None:
        forwards.append(len(maps))
        if maps.requires_grad:
            maps.register_hook(lambda gradient: backwards.append(len(gradient)))

    first.register_forward_hook(count)
    images = torch.rand(8, 3, 32, 32)
    for value in recipe.losses(model, images, torch.linspace(0.1, 0.9, 8), 0.5):
        value.backward()
    stated = recipe.passes_an_image * len(images)
    assert sum(backwards) <= sum(forwards) <= stated
    # its four interventions cost 0, 1, 2 and 2 passes, and one number states them all: the most
    assert sum(forwards) == (stated if name != "cprl-sortmask" else 3.25 * len(images))
    assert sum(backwards) >= len(images)


def test_eval_mode_is_put_back_after_an_error():
    model = Counting().train()

    def fail() -> None:
        with in_eval_mode(model):
            assert not model.training
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.training


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_registered_as_a_training_defense(name):
    entry = next(entry for entry in catalogue("defenses") if entry["name"] == name)
    assert entry["kind"] == "training"
    assert entry["surrogate"] == "exact"
    assert not entry["stochastic"]
    assert entry["paper"].startswith("https://")
    assert isinstance(entry["trained_for"], list)
    assert entry["about"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_model_without_a_gradient_is_refused(name):
    model = MeanModel()
    model.info = ModelInfo("by-rule", min_size=1, differentiable=False)
    with pytest.raises(DoesNotApply, match=f"{name} trains by gradient, and by-rule has none"):
        DEFENSES.build(name).prepare(model)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("trades[beta=-1]", "beta must not be negative"),
        ("trades[epsilon=0]", "epsilon and ramp must be in"),
        ("free-training[ramp=2]", "epsilon and ramp must be in"),
        ("adversarial-training[adversarial_weight=-1]", "adversarial_weight must not be negative"),
        ("adversarial-training-label[penalty=-0.1]", "penalty must not be negative"),
        ("anchored-training[margin=-1]", "margin must not be negative"),
        ("anchored-training[ranking_weight=.nan]", "ranking_weight must be finite"),
        ("norm-regularization[step=0]", "step must be in"),
    ],
)
def test_wrong_parameters_get_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        DEFENSES.build(spec)
    assert "\n" not in str(error.value)
