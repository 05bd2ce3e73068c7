"""Architecture defenses: their blocks against formulas in NumPy, how they are trained, deployed and attacked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from iqarena.bench.cli.catalogue import catalogue
from iqarena.bench.errors import UserError
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.architecture.base import WithBlock
from iqarena.defenses.architecture.feature_denoising import DenoisingBlock
from iqarena.defenses.architecture.orthogonal import Orthogonal, orthonormal
from iqarena.defenses.architecture.soft_threshold import Shrinkage
from iqarena.defenses.architecture.sortmask import SortMask
from iqarena.defenses.base import DoesNotApply
from iqarena.models.base import FeatureModel, ModelInfo, QualityModel
from iqarena.models.resnet_iqa import ResNetIQA
from iqarena.models.zoo import save_weights
from tests.support.analytic_models import MeanModel
from tests.support.attack_runs import random_pixels

NAMES = ("feature-denoising", "soft-threshold", "sortmask", "orthogonal")
BLOCKS = ("feature-denoising", "feature-denoising[filter=mean]", "soft-threshold", "sortmask", "sortmask[form=hard]")


def maps_of(count: int = 2, channels: int = 5, height: int = 4, width: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


# --- the blocks


def test_non_local_filter_is_a_softmax_weighted_mean_of_all_places():
    torch.manual_seed(0)
    block, maps = DenoisingBlock(5, "non-local").eval(), maps_of()
    with torch.no_grad():
        result = block.filtered(maps).numpy()
        query, key = block.query(maps).numpy(), block.key(maps).numpy()
    for n in range(2):
        q, k, z = (part[n].reshape(5, -1) for part in (query, key, maps.numpy()))
        likeness = np.exp(q.T @ k / np.sqrt(5))
        expected = z @ (likeness / likeness.sum(axis=1, keepdims=True)).T
        np.testing.assert_allclose(result[n].reshape(5, -1), expected, atol=1e-5)


def test_mean_filter_is_the_mean_of_the_neighbours_that_are_there():
    maps = maps_of()
    result = DenoisingBlock(5, "mean").filtered(maps)
    assert float(result[0, 0, 0, 0]) == pytest.approx(float(maps[0, 0, :2, :2].mean()), abs=1e-6)
    assert float(result[1, 2, 2, 1]) == pytest.approx(float(maps[1, 2, 1:4, 0:3].mean()), abs=1e-6)


@pytest.mark.parametrize("kind", ["non-local", "mean"])
def test_denoising_block_starts_from_the_identity_and_is_residual(kind):
    torch.manual_seed(0)
    block, maps = DenoisingBlock(5, kind).eval(), maps_of()
    assert torch.equal(block(maps), maps)
    nn.init.constant_(block.norm.weight, 0.5)
    # BatchNorm of mean 0 and variance 1 but for its 1e-5
    torch.testing.assert_close(block(maps), maps + 0.5 * block.mix(block.filtered(maps)), atol=1e-4, rtol=1e-4)


def test_shrinkage_takes_the_threshold_off_every_value():
    torch.manual_seed(0)
    block, maps = Shrinkage(5), maps_of()
    nn.init.normal_(block.share[2].weight)
    with torch.no_grad():
        result, share = block(maps), block.share(maps.abs().mean(dim=(2, 3)))
    assert ((share > 0) & (share < 1)).all()
    z = maps.numpy()
    t = share.numpy()[:, :, None, None] * np.abs(z).mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(result.numpy(), np.sign(z) * np.maximum(np.abs(z) - t, 0), atol=1e-6)
    assert (result == 0).any()


@pytest.mark.parametrize("form", ["soft", "hard"])
def test_sortmask_sends_the_nearest_share_of_each_channel_to_its_mean(form):
    maps = maps_of(height=5, width=4)
    result = SortMask(0.3, form)(maps).numpy()
    z = maps.numpy().reshape(2, 5, 20)
    mean = z.mean(axis=2, keepdims=True)
    distance = np.abs(z - mean)
    t = np.sort(distance, axis=2)[:, :, 5:6]  # the sixth of twenty
    kept = distance > t
    soft = mean + np.sign(z - mean) * np.maximum(distance - t, 0)
    expected = soft if form == "soft" else np.where(kept, z, mean)
    np.testing.assert_allclose(result.reshape(2, 5, 20), expected, atol=1e-6)
    assert (kept.sum(axis=2) == 14).all()


def test_sortmask_without_a_share_is_the_identity_and_leaves_flat_maps_alone():
    maps = maps_of()
    assert torch.equal(SortMask(0.0, "soft")(maps), maps)
    flat = torch.full((1, 2, 4, 4), 0.7)
    for form in ("soft", "hard"):
        torch.testing.assert_close(SortMask(0.9, form)(flat), flat)


def test_soft_sortmask_lengthens_nothing_for_a_fixed_mean_and_threshold():
    """A value that moves shifts mean and threshold slightly; the output moves no further than the input."""
    maps = maps_of(1, 1, 8, 8)
    moved = maps.clone()
    moved[0, 0, 3, 3] += 1e-3
    block = SortMask(0.5, "soft")
    change = (block(moved) - block(maps))[0, 0, 3, 3].abs()
    # its own 1e-3, and twice the effect of 1e-3/64 on the mean
    assert float(change) <= 1e-3 * (1 + 2 / 64) + 1e-6


@pytest.mark.parametrize("block", [DenoisingBlock(3, "non-local"), Shrinkage(3), SortMask(0.3, "soft")])
def test_gradient_of_a_block_is_that_of_finite_differences(block):
    torch.manual_seed(0)
    double = block.double().eval()
    if isinstance(double, DenoisingBlock):
        nn.init.constant_(double.norm.weight, 0.5)
    maps = maps_of(1, 3, 3, 3, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(double, (maps,))


# --- orthogonal layers


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (3, 5, 8), (6, 1, 9)])
def test_all_singular_values_are_one(shape):
    matrix = orthonormal(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    # a ridge of 1e-5 of the mean squared length, over the least eigenvalue of these matrices, which is some 0.1 of it
    np.testing.assert_allclose(np.linalg.svd(matrix.numpy(), compute_uv=False), 1, atol=1e-4)


def test_orthogonal_of_parallel_and_empty_filters_is_finite():
    rows = torch.ones(3, 8)
    assert torch.isfinite(orthonormal(rows)).all()
    assert torch.isfinite(orthonormal(torch.zeros(3, 8))).all()


def test_every_layer_is_a_gain_times_an_isometry():
    torch.manual_seed(0)
    model = ResNetIQA()
    prepared = Orthogonal().prepare(model)
    own = {n: m.weight.detach() for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    seen = 0
    for name, layer in prepared.named_modules():
        if name in own:
            matrix = layer.weight.detach().flatten(1).numpy()
            values = np.linalg.svd(matrix, compute_uv=False)
            assert values.min() == pytest.approx(values.max(), rel=1e-3), name
            assert np.linalg.norm(matrix) == pytest.approx(float(own[name].norm()), rel=1e-4)  # as much energy
            seen += 1
    assert seen == len(own) > 10


class Grouped(QualityModel):
    """A model of a depthwise and a pointwise convolution."""

    info = ModelInfo("grouped", min_size=4)

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.point = nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.point(self.deep(images)).mean(dim=(1, 2, 3))


def test_groups_are_matrices_of_their_own():
    torch.manual_seed(0)
    prepared = Orthogonal().prepare(Grouped())
    for group in prepared.deep.weight.detach().view(3, 2, 9).numpy():
        values = np.linalg.svd(group, compute_uv=False)
        assert values.min() == pytest.approx(values.max(), rel=1e-3)


def test_deployed_layers_are_plain_ones(tmp_path):
    """Deployed scores equal the trained network's without its Gram-Schmidt step: no overhead, and no masked gradient."""
    torch.manual_seed(0)
    trained = Orthogonal().prepare(ResNetIQA()).eval()
    save_weights(trained, tmp_path / "w.safetensors", {})
    protected = Orthogonal(weights=str(tmp_path / "w.safetensors")).protect(ResNetIQA())
    assert set(protected.state_dict()) == set(ResNetIQA().state_dict())
    images = random_pixels(2, 64, 64).float() / 255
    torch.testing.assert_close(protected(images), trained(images))


# --- as defenses


@pytest.mark.parametrize("spec", BLOCKS)
def test_a_block_sits_between_feature_maps_and_head(spec):
    torch.manual_seed(0)
    model = ResNetIQA().eval()
    prepared = DEFENSES.build(spec).prepare(model).eval()
    assert isinstance(prepared, WithBlock)
    images = random_pixels(2, 64, 80).float() / 255
    torch.testing.assert_close(prepared(images), model.head(prepared.block(model.features(images)), 2))
    if spec.startswith("feature-denoising"):  # starts as the model itself
        torch.testing.assert_close(prepared(images), model(images))
    assert prepared.info == model.info


@pytest.mark.parametrize("spec", [*BLOCKS, "orthogonal"])
def test_training_is_plain_unless_it_is_adversarial(spec):
    plain = DEFENSES.build(spec)
    adversarial = DEFENSES.build(f"{spec[:-1]},training=adversarial]" if "[" in spec else f"{spec}[training=adversarial]")
    assert plain.passes_an_image == 1
    assert adversarial.passes_an_image == DEFENSES.build("adversarial-training").passes_an_image
    images, labels = random_pixels(2, 64, 64).float() / 255, torch.tensor([0.2, 0.9])
    torch.manual_seed(0)
    model = plain.prepare(ResNetIQA()).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    loss = plain.loss(model, images, labels, 0.5)
    model.load_state_dict(state)
    assert float(loss.detach()) == pytest.approx(float(((model(images) - labels) ** 2).mean().detach()), rel=1e-4)
    model.load_state_dict(state)
    torch.manual_seed(1)
    result = adversarial.loss(model, images, labels, 0.5)
    model.load_state_dict(state)
    torch.manual_seed(1)
    assert torch.equal(result, DEFENSES.build("adversarial-training").loss(model, images, labels, 0.5))


@pytest.mark.parametrize("spec", [*BLOCKS, "orthogonal"])
def test_training_reaches_all_weights(spec):
    torch.manual_seed(0)
    recipe = DEFENSES.build(spec)
    model = recipe.prepare(ResNetIQA()).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    images, labels = random_pixels(2, 64, 64).float() / 255, torch.tensor([0.2, 0.9])
    for _ in range(3):  # what lies behind a gain or a layer that starts from 0 gets its gradient a step or two later
        optimizer.zero_grad()
        for value in recipe.losses(model, images, labels, 0.5):
            value.backward()
        optimizer.step()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        # softmax does not change where all places' keys move alike
        assert name == "block.key.bias" or float(weight.grad.abs().max()) > 0, name


@pytest.mark.parametrize("spec", [*BLOCKS, "orthogonal"])
def test_surrogate_scores_as_deployed_and_has_a_gradient(spec, tmp_path):
    torch.manual_seed(0)
    prepared_model = DEFENSES.build(spec).prepare(ResNetIQA())
    save_weights(prepared_model, tmp_path / "w.safetensors", {})
    given = f"weights={tmp_path / 'w.safetensors'}"
    defense = DEFENSES.build(f"{spec[:-1]},{given}]" if "[" in spec else f"{spec}[{given}]")
    deployed, surrogate = defense.protect(ResNetIQA()), defense.surrogate(ResNetIQA())
    images = (random_pixels(2, 64, 64).float() / 255).requires_grad_()
    scores = surrogate(images)
    torch.testing.assert_close(scores, deployed(images))  # the same values to the last digits of float32
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


def test_hard_sortmask_is_attacked_through_the_identity(tmp_path):
    torch.manual_seed(0)
    model = ResNetIQA().eval()
    save_weights(DEFENSES.build("sortmask[form=hard]").prepare(model), tmp_path / "w.safetensors", {})
    defense = DEFENSES.build(f"sortmask[form=hard,share=0.8,weights={tmp_path / 'w.safetensors'}]")
    assert defense.surrogate_kind == "identity"
    surrogate = defense.surrogate(model)
    features = model.features(random_pixels(1, 64, 64).float() / 255).detach().requires_grad_()
    result = torch.autograd.grad(surrogate.block(features).square().sum(), features)[0]
    torch.testing.assert_close(result, 2 * surrogate.block(features))


class OnePlace(FeatureModel):
    """A model whose feature maps have a single place."""

    info = ModelInfo("one-place", min_size=8)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3), keepdim=True)

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        return features.mean(dim=(1, 2, 3))


def test_what_does_not_fit_is_refused_with_the_reason():
    for name in ("feature-denoising", "soft-threshold", "sortmask"):
        with pytest.raises(DoesNotApply, match=f"{name} needs a model with visible feature maps"):
            DEFENSES.build(name).prepare(MeanModel())
    for name in ("feature-denoising", "sortmask"):
        with pytest.raises(DoesNotApply, match=f"{name} compares places of feature maps"):
            DEFENSES.build(name).prepare(OnePlace())
    assert isinstance(DEFENSES.build("soft-threshold").prepare(OnePlace()), WithBlock)
    with pytest.raises(DoesNotApply, match="orthogonal needs convolutions or linear layers"):
        DEFENSES.build("orthogonal").prepare(MeanModel())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_registered_as_an_architecture_defense(name):
    entry = next(entry for entry in catalogue("defenses") if entry["name"] == name)
    assert entry["kind"] == "architecture"
    assert entry["paper"].startswith("https://")
    assert isinstance(entry["trained_for"], list)
    model = ResNetIQA()
    model.info = ModelInfo("no-such-model", min_size=64)
    with pytest.raises(DoesNotApply, match=f"`iqarena train --model no-such-model --defense {name}"):
        DEFENSES.build(name).protect(model)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sortmask[share=1]", "share 1 is outside"),
        ("sortmask[form=firm]", "form"),
        ("feature-denoising[filter=median]", "filter"),
        ("soft-threshold[training=none]", "training"),
        ("orthogonal[training=adversarial,epsilon=0]", "epsilon and ramp must be in"),
    ],
)
def test_wrong_parameters_get_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        DEFENSES.build(spec)
    assert "\n" not in str(error.value)
