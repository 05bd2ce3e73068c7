"""CPRL's options beyond the abstract: closed forms, finite differences, cost of each, and that all are off by default."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.cprl.activation import RandomMask, SoftRankActivation, StableRankActivation
from iqarena.defenses.cprl.cprl import CPRL
from iqarena.defenses.cprl.model import CPRLModel, StageWithActivation, StraightThrough, activation_holder
from iqarena.defenses.training.anchored import ranking_loss
from iqarena.defenses.training.loop import inner_attack
from iqarena.models.base import FeatureModel, ModelInfo
from iqarena.models.resnet_iqa import ResNetIQA
from iqarena.models.zoo import card_of, save_weights, weight_file
from tests.support.attack_runs import random_pixels

EPSILON = 8 / 255


class Means(FeatureModel):
    """A model whose score is the mean pixel; it counts the images that it scores."""

    info = ModelInfo("means", min_size=1)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.forwards = 0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.forwards += len(images)
        return self.weight * images

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        return features.mean(dim=(1, 2, 3))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.tensor([0.2, 0.5, 0.9, 0.4]).view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous()
    return images, torch.tensor([0.3, 0.3, 0.9, 0.1])


def loss_of(recipe: CPRL, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return the loss, and the scores of the clean and of the attacked images from which it was computed."""
    torch.manual_seed(3)
    loss = float(recipe.loss(Means().train(), *batch, 1.0).detach())
    torch.manual_seed(3)
    attacked = inner_attack(Means(), batch[0], recipe.moved_from(batch[1]), recipe.epsilon, recipe.inner_steps)
    return loss, batch[0].mean(dim=(1, 2, 3)), attacked.mean(dim=(1, 2, 3))


# --- the stable rank


def test_the_stable_rank_goes_by_variance_over_images_against_what_an_attack_does():
    layer = StableRankActivation(keep=0.5, sharpness=0.01, channels=4, momentum=1.0)
    # means of the channels over three images: they vary by 4, 1, 1 and 0 units², and are moved by 2, 0.1, 1 and 0
    clean = torch.tensor([[2.0, 1, 1, 0], [-2.0, -1, 1, 0], [0.0, 0, -2, 0]])
    moved = torch.tensor([2.0, -0.1, 1, 0])
    maps = clean[:, :, None, None] + torch.tensor([[-1.0, 1], [1, -1]])  # a change that leaves the mean over a map unchanged
    layer.observe(maps, maps + moved[:, None, None])
    np.testing.assert_allclose(layer.signal, clean.numpy().var(axis=0), rtol=1e-6)
    np.testing.assert_allclose(layer.shift, moved.numpy() ** 2, rtol=1e-5)
    # ratios 0.67, 67, 2 and none: the second and the third are kept, the dead channel is the last
    kept = layer.kept(maps)[:, :, 0, 0]
    assert kept.shape == (3, 4)
    assert torch.equal(kept, kept[:1].expand(3, 4))
    np.testing.assert_allclose(kept[0], torch.sigmoid((2 - torch.tensor([3.0, 1, 2, 4])) / 0.04), rtol=1e-6)


def test_the_stable_rank_learns_while_it_trains_and_stands_still_after():
    torch.manual_seed(0)
    layer, maps = StableRankActivation(0.5, 0.05, 6), torch.randn(8, 6, 3, 3)
    torch.testing.assert_close(layer.train()(maps), maps * layer.kept(maps))
    signal = layer.signal.clone()
    # of the first half of the batch, the clean images, by 5 %
    expected = 0.05 * maps[:4].mean(dim=(2, 3)).var(dim=0, unbiased=False)
    torch.testing.assert_close(signal, expected)
    layer.eval()(maps)
    assert torch.equal(layer.signal, signal)
    again = StableRankActivation(0.5, 0.05, 6)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.kept(maps), layer.kept(maps))


def test_gradients_of_the_masks_are_those_of_finite_differences():
    torch.manual_seed(0)
    features = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    stable = StableRankActivation(0.5, 0.1, 6)
    stable.train()(features)
    assert torch.autograd.gradcheck(stable.eval(), (features.requires_grad_(),))
    # a mask that has not come in fully is that much of it; the soft rank is computed in float32, so it is held against the
    # blend of the whole mask's gradient and the identity's
    layer = SoftRankActivation(0.5, 0.5, 0.2)
    slopes = []
    for layer.in_force in (1.0, 0.0, 0.25):
        slopes.append(torch.autograd.grad(layer(features).square().sum() / 2, features)[0])
        values = layer(features).detach()
        if layer.in_force == 0:
            assert torch.equal(values, features)
    whole = SoftRankActivation(0.5, 0.5, 0.2)
    blended = (0.25 * whole(features) + 0.75 * features).square().sum() / 2
    torch.testing.assert_close(slopes[2], torch.autograd.grad(blended, features)[0])
    assert not torch.allclose(slopes[0], slopes[2])


# --- terms


def test_ideas_are_off_by_default(batch):
    loss, clean, attacked = loss_of(CPRL(epsilon=EPSILON, necessity_weight=0), batch)
    assert loss == pytest.approx(float(((clean - batch[1]) ** 2).mean() + ((attacked - batch[1]) ** 2).mean()), abs=1e-6)


def test_a_reflecting_intervention_pushes_every_score_across_the_middle(batch):
    _, labels = batch
    mean = float(labels.mean())  # 0.4: the third image is above it
    torch.testing.assert_close(
        CPRL(intervention="reflection").moved_from(labels), labels + 2 * torch.tensor([-1.0, -1, 1, -1])
    )
    torch.testing.assert_close(CPRL(intervention="mixed").moved_from(labels), labels + 2 * torch.tensor([-1.0, 0, 1, 0]))
    assert CPRL().moved_from(labels) is labels
    _, clean, attacked = loss_of(CPRL(intervention="reflection", epsilon=EPSILON), batch)
    moved = (attacked - clean).numpy()
    # over a range of 1.25 ε from anywhere in the ball: at least a quarter of it is left on the far side
    assert (np.sign(moved) == np.sign(mean - labels.numpy())).all()
    assert (np.abs(moved) > EPSILON / 4).all()


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_the_invariance_term_is_the_squared_shift(batch, weight):
    without, clean, attacked = loss_of(CPRL(epsilon=EPSILON, necessity_weight=0), batch)
    loss, _, _ = loss_of(CPRL(epsilon=EPSILON, necessity_weight=0, invariance_weight=weight), batch)
    assert loss - without == pytest.approx(weight * float(((attacked - clean) ** 2).mean()), abs=1e-6)


def test_necessity_under_attack_is_the_ranking_of_attacked_images(batch):
    _, labels = batch
    without, _, attacked = loss_of(CPRL(epsilon=EPSILON, necessity_weight=0), batch)
    loss, _, _ = loss_of(CPRL(epsilon=EPSILON, necessity_weight=2, necessity="attacked", margin=0.3), batch)
    pairs = []
    for i, j in np.ndindex(4, 4):
        distance = float(labels[i] - labels[j])
        pairs.append(
            max(min(0.3, abs(distance)) - np.sign(distance) * float(attacked[i] - attacked[j]), 0) * (distance != 0)
        )
    assert loss - without == pytest.approx(2 * sum(pairs) / 16, abs=1e-6)
    assert sum(pairs) / 16 == pytest.approx(float(ranking_loss(attacked, attacked, labels, labels, 0.3)), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [({}, 4), ({"inner_steps": 1}, 3), ({"inner_steps": 5}, 7), ({"adversarial_weight": 0.0}, 1),
     ({"sufficiency_weight": 0.0, "necessity": "attacked"}, 3),
     ({"sufficiency_weight": 0.0, "necessity_weight": 0.0, "inner_steps": 1}, 2),
     ({"mask": "stable-rank", "mask_ramp": 0.5, "invariance_weight": 1.0, "intervention": "mixed"}, 4)],
)  # fmt: skip
def test_an_image_costs_what_is_said(batch, changes, passes):
    recipe = CPRL(**changes)
    model = recipe.prepare(Means()).train()
    assert recipe.passes_an_image == passes
    seen = model.model if isinstance(model, CPRLModel) else model
    before = seen.forwards
    recipe.loss(model, *batch, 0.5).backward()
    assert seen.forwards - before == passes * 4
    assert model.training


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("mask_ramp=1", "mask_ramp must be"), ("inner_steps=0", "inner_steps at least 1"),
     ("invariance_weight=-1", "invariance_weight must not be negative"),
     ("sufficiency_weight=0", "necessity=clean needs images"),
     ("adversarial_weight=0,necessity=attacked", "necessity=attacked needs images"),
     ("adversarial_weight=0,invariance_weight=1", "invariance_weight above 0 needs"),
     ("adversarial_weight=0,mask=stable-rank", "mask=stable-rank needs"),
     ("adversarial_weight=0,sufficiency_weight=0,necessity_weight=0", "a training needs")],
)  # fmt: skip
def test_what_cannot_go_together_is_one_line(wrong, message):
    with pytest.raises(UserError, match=message):
        DEFENSES.build(f"cprl[{wrong}]")


# --- how the mask comes in, and where it is


def test_the_mask_comes_in_over_its_share_of_the_training(batch):
    recipe = CPRL(mask_ramp=0.5, keep=0.4)
    model = recipe.prepare(Means()).train()
    results = []
    for progress in (0.0, 0.25, 0.5, 0.99):
        recipe.loss(model, *batch, progress)
        results.append(model.activation.in_force)
    assert results == [0, 0.5, 1, 1]
    whole = CPRL(keep=0.4).prepare(Means())
    maps = torch.rand(2, 3, 4, 4)
    assert torch.equal(model.activation(maps), whole.activation(maps))
    model.activation.in_force = 0.0
    assert torch.equal(model.activation(maps), maps)


@pytest.mark.parametrize(
    ("mask", "cls"), [("soft-rank", SoftRankActivation), ("stable-rank", StableRankActivation), ("random", RandomMask)]
)
def test_an_activation_can_stand_behind_any_stage(mask, cls):
    torch.manual_seed(0)
    model = ResNetIQA().eval()
    placed = CPRL(mask=mask, after="blocks.1").prepare(model).eval()
    assert isinstance(placed, ResNetIQA)
    assert isinstance(activation_holder(placed), StageWithActivation)
    assert type(placed.blocks[1].activation) is cls
    images = random_pixels(2, 64, 64).float() / 255
    normal = (images - 0.45) / 0.25
    with torch.no_grad():
        maps = model.blocks[1](model.blocks[0](model.stem(normal)))
        assert maps.shape[1] == 64
        masked = placed.blocks[1].activation(maps)
        expected = model.head(model.blocks[3](model.blocks[2](masked)), 2)
        torch.testing.assert_close(placed(images), expected)
        assert not torch.allclose(model(images), expected)
    assert activation_holder(model) is None  # the model that it was made from is as it was


def test_a_stage_that_is_not_there_is_one_line_that_names_those_that_are():
    with pytest.raises(DoesNotApply, match=r"resnet-iqa has no stage 'blocks\.9' .* stem, stem\.0"):
        CPRL(after="blocks.9").prepare(ResNetIQA())
    with pytest.raises(DoesNotApply, match="does not give feature maps"):
        CPRL(after="regress").prepare(ResNetIQA())


@pytest.mark.parametrize("after", ["", "blocks.0"])
def test_weights_come_back_and_surrogates_change_the_activation_alone(tmp_path, after):
    torch.manual_seed(0)
    recipe = CPRL(after=after)
    trained = recipe.prepare(ResNetIQA()).eval()
    file = tmp_path / "w.safetensors"
    save_weights(trained, file, {"recipe": {"after": after}})
    images = random_pixels(2, 64, 64).float() / 255
    own = CPRL(after=after, weights=str(file))
    torch.testing.assert_close(own.protect(ResNetIQA())(images), trained(images))
    identity = CPRL(after=after, weights=str(file), through="identity").surrogate(ResNetIQA())
    assert isinstance(activation_holder(identity).activation, StraightThrough)
    torch.testing.assert_close(identity(images), trained(images))
    smoother = CPRL(after=after, weights=str(file), through="smoother").surrogate(ResNetIQA())
    assert activation_holder(smoother).activation.sharpness == 4 * recipe.sharpness
    with pytest.raises(DoesNotApply, match="was trained with after="):
        CPRL(after="stem", weights=str(file)).protect(ResNetIQA())


def test_a_card_that_is_older_than_a_parameter_means_its_default():
    card = card_of(weight_file("resnet-iqa", "cprl"))["recipe"]
    if "invariance_weight" in card:
        pytest.skip("the shipped card knows every parameter")
    CPRL().protect(ResNetIQA())
    with pytest.raises(DoesNotApply, match=r"was trained with invariance_weight=0\.0, not 1"):
        CPRL(invariance_weight=1.0).protect(ResNetIQA())


def test_a_stable_mask_hides_no_gradient():
    """Through the mask of a trained model, the gradient is that of the network with its channels scaled."""
    torch.manual_seed(0)
    model = CPRL(mask="stable-rank").prepare(ResNetIQA()).eval()
    with torch.no_grad():
        model.activation.signal.uniform_(0, 1)
        model.activation.shift.uniform_(0, 1)
    images = (random_pixels(2, 64, 64).float() / 255).requires_grad_()
    mask = model.activation.kept(torch.zeros(1, 128, 1, 1))[0, :, 0, 0]
    pooled = model.model.features(images).mean(dim=(2, 3))
    weight, bias = model.model.regress[0].weight * mask, model.model.regress[0].bias
    scaled = model.model.regress[2](functional.relu(functional.linear(pooled, weight, bias)))
    ours, theirs = (torch.autograd.grad(score.sum(), images)[0] for score in (model(images), scaled))
    torch.testing.assert_close(ours, theirs)
