"""The contract of every registered model, and the parts of `cnniqa` against plain computations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

from iqarena.bench.registry import MODELS
from iqarena.models.base import Custom, FeatureModel, FittedModel, ModelInfo
from iqarena.models.cnniqa import CNNIQA, FILTERS, KERNEL, PATCH, normalize_contrast
from tests.support.attack_runs import random_pixels

NAMES = MODELS.names()


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    """Each registered model with seeded weights; the contract holds for any weights."""
    torch.manual_seed(0)
    registered = MODELS.find(request.param)().eval().requires_grad_(False)
    for part in registered.modules():  # running statistics as after training: not those of a fresh network
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    return registered


def some_images(model, count):
    side = model.info.min_size
    return random_pixels(count, max(side, 64) + 6, max(side, 64) + 2).float() / 255


@pytest.fixture
def differentiable(model):
    """The model, if its score has a gradient."""
    if not model.info.differentiable:
        pytest.skip("gives scores only")
    return model


def test_both_shipped_models_are_registered():
    assert {"cnniqa", "resnet-iqa"} <= set(NAMES)


@pytest.mark.parametrize("extra", [(0, 0), (1, 15), (33, 2), (60, 0)])
@pytest.mark.parametrize("count", [1, 3])
def test_scores_are_one_real_number_an_image_at_any_size_from_the_least_on(model, extra, count):
    height, width = (model.info.min_size + more for more in extra)
    with torch.inference_mode():
        scores = model(random_pixels(count, height, width).float() / 255)
    assert scores.shape == (count,)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
def test_flat_images_get_finite_scores_and_finite_gradients(model, level):
    side = model.info.min_size
    images = torch.full((2, 3, side, side), level / 255, requires_grad=True)
    scores = model(images)
    assert torch.isfinite(scores).all()
    if not model.info.differentiable:
        return
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert torch.isfinite(gradient).all()


def test_half_flat_images_get_finite_gradients(differentiable):
    model = differentiable
    side = model.info.min_size
    images = random_pixels(1, side, side).float() / 255
    images[..., : side // 2] = 1.0
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert torch.isfinite(gradient).all()


def test_gradient_reaches_pixels_all_over_the_image(differentiable):
    model = differentiable
    side = 2 * model.info.min_size
    images = (random_pixels(1, side, side).float() / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert torch.isfinite(gradient).all()
    half = side // 2
    for rows in (slice(0, half), slice(half, side)):
        for columns in (slice(0, half), slice(half, side)):
            assert gradient[..., rows, columns].abs().amax() > 0
    assert (gradient.abs().amax(dim=(0, 2, 3)) > 0).all(), "all three colours count"


def test_gradient_predicts_a_small_change_of_the_score(differentiable):
    model = copy.deepcopy(differentiable).double()
    side = model.info.min_size
    images = (random_pixels(1, side, side).double() / 255).requires_grad_()
    scores = model(images)
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    step = 1e-6 * gradient / gradient.norm()
    with torch.no_grad():
        change = float(model(images + step) - model(images - step)) / 2
    # central difference in float64 of a function that is smooth but for kinks, which so small a step hardly meets
    assert change == pytest.approx(1e-6 * float(gradient.norm()), rel=1e-3)


def test_scores_repeat_exactly_in_eval_mode(model):
    images = some_images(model, 2)
    with torch.inference_mode():
        first = model(images)
        torch.rand(7)
        assert torch.equal(model(images), first)


def test_score_of_an_image_does_not_depend_on_its_batch(model):
    images = some_images(model, 5)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(images[i : i + 1]) for i in range(5)])
        reordered = model(images.flip(0)).flip(0)
    # other batch sizes take other kernels, which add float32 products in another order: some 1e-6 of scores of size one.
    # Images of real data differ by far more than that
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reordered, together, atol=1e-5, rtol=1e-5)
    assert together.std() > 1e-4


def test_memory_layout_changes_nothing(model):
    images = some_images(model, 2)
    with torch.inference_mode():
        torch.testing.assert_close(
            model(images.contiguous(memory_format=torch.channels_last)), model(images), atol=1e-5, rtol=1e-5
        )


def test_scoring_does_not_change_the_images(model):
    images = some_images(model, 1)
    before = images.clone()
    model(images)
    assert torch.equal(images, before)


def test_plain_training_gives_every_weight_a_gradient(model):
    if isinstance(model, FittedModel):
        pytest.skip("is fitted in one go")
    trained = copy.deepcopy(model).requires_grad_().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = trained.training_loss(some_images(model, 4), torch.tensor([0.1, 0.4, 0.5, 0.9]))
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_visible_feature_maps_are_where_the_score_comes_from(model):
    if not isinstance(model, FeatureModel):
        pytest.skip("shows no feature maps")
    images = some_images(model, 2)
    with torch.inference_mode():
        maps = model.features(images)
        assert maps.ndim == 4
        assert len(maps) % 2 == 0
        torch.testing.assert_close(model.head(maps, 2), model(images))


# --- cnniqa


def _plain_pooling(model, patches):
    responses = functional.conv2d(patches, model.conv.weight, model.conv.bias).flatten(2)
    return torch.cat([responses.max(dim=2).values, responses.min(dim=2).values], dim=1)


def test_pooled_responses_are_plain_max_and_min_pooling_with_the_same_gradients():
    torch.manual_seed(3)
    model = CNNIQA().double()  # in float64 the two ways agree to the last digits, so a wrong winner would show
    patches = torch.randn(50, 1, PATCH, PATCH, dtype=torch.float64, requires_grad=True)
    toward = torch.randn(50, 2 * FILTERS, dtype=torch.float64)
    leaves = [patches, model.conv.weight, model.conv.bias]
    fast, plain = model._pooled_responses(patches), _plain_pooling(model, patches)
    assert fast.shape == (50, 2 * FILTERS)
    torch.testing.assert_close(fast, plain, atol=1e-10, rtol=0)
    fast_gradients = torch.autograd.grad((fast * toward).sum(), leaves)
    plain_gradients = torch.autograd.grad((plain * toward).sum(), leaves)
    for one, other in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_pooled_responses_have_the_right_values_where_all_windows_tie():
    torch.manual_seed(3)
    model = CNNIQA()
    patches = torch.full((2, 1, PATCH, PATCH), 0.3)
    torch.testing.assert_close(model._pooled_responses(patches), _plain_pooling(model, patches), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47)])
def test_contrast_normalisation_is_the_one_of_scipy(shape):
    gray = random_pixels(1, *shape)[:, :1].float()
    values = gray[0, 0].double().numpy()
    mean = ndimage.uniform_filter(values, KERNEL, mode="mirror")  # SciPy's word for reflecting without the edge twice
    variance = ndimage.uniform_filter(values**2, KERNEL, mode="mirror") - mean**2
    expected = (values - mean) / (np.sqrt(np.maximum(variance, 0)) + 1)
    # float32 sums of squares up to 65,025 leave some 0.01 of variances of about 5,000: far below 1e-4 of the result
    np.testing.assert_allclose(normalize_contrast(gray)[0, 0], expected, atol=1e-4)


def test_contrast_normalisation_of_a_flat_image_is_nothing():
    for level in (0.0, 77.0, 255.0):
        # rounding of the mean, a few times 1.5e-5
        assert normalize_contrast(torch.full((1, 1, 32, 32), level)).abs().max() < 1e-3


def test_the_score_is_the_mean_over_whole_patches_from_the_top_left():
    torch.manual_seed(0)
    model = CNNIQA().eval()
    images = random_pixels(1, 90, 70).float() / 255
    changed = images.clone()
    changed[..., 70:, :] = 0.2  # 64 rows are covered; the filters of the normalisation reach 3 further
    changed[..., :, 68:] = 0.7
    with torch.inference_mode():
        torch.testing.assert_close(model(changed), model(images))
        changed[..., 60, 60] = 1 - changed[..., 60, 60]
        assert not torch.equal(model(changed), model(images))


# --- facts and qualities


@pytest.mark.parametrize(
    ("score_range", "higher", "expected"),
    [
        ((0.0, 1.0), True, [0.0, 0.25, 1.5]),
        ((0.0, 1.0), False, [1.0, 0.75, -0.5]),
        ((-1.0, 3.0), True, [0.25, 0.3125, 0.625]),
        ((-1.0, 3.0), False, [0.75, 0.6875, 0.375]),
    ],
)
def test_quality_maps_the_range_and_turns_it_around_where_lower_is_better(score_range, higher, expected):
    model = Custom(nn.Flatten(), ModelInfo("raw", score_range, higher))
    scores = torch.tensor([0.0, 0.25, 1.5]).view(3, 1, 1, 1)
    # beyond the range it is not clamped
    torch.testing.assert_close(model.quality(scores), torch.tensor(expected))


@pytest.mark.parametrize("score_range", [(1.0, 0.0), (1.0, 1.0), (float("nan"), 1.0)])
def test_a_range_that_is_none_is_refused(score_range):
    with pytest.raises(ValueError, match="odd: score_range"):
        ModelInfo("odd", score_range)


def test_a_module_that_gives_a_column_becomes_a_model():
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1))
    images = random_pixels(4).float() / 255
    assert Custom(module, ModelInfo("column"))(images).shape == (4,)
    assert Custom(nn.Sequential(module, nn.Flatten(0)), ModelInfo("flat"))(images).shape == (4,)
    assert Custom(module, ModelInfo("column"))(images[:1]).shape == (1,)
