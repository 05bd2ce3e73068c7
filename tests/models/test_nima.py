"""The model `nima-mobilenet` against its published scores, Pillow's resize, TensorFlow's padding, and closed forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from iqarena.bench.datasets.base import read_image
from iqarena.bench.errors import UserError
from iqarena.bench.inference.loading import load_model
from iqarena.models.nima_mobilenet import SIDE, NIMAMobileNet, _same
from tests.support.attack_runs import random_pixels


@pytest.fixture
def model():
    torch.manual_seed(0)
    return NIMAMobileNet().eval()


@pytest.fixture
def seen_by_conv1(model):
    """The inputs of the first convolution, recorded at every scoring."""
    seen = []
    model.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def test_the_published_weights_give_the_published_scores(data_root):
    weights = data_root / "weights" / "nima_mobilenet_technical.safetensors"
    expected = json.loads(weights.with_suffix(".reference.json").read_text())["scores"]
    assert len(expected) == 24
    loaded = load_model(f"nima-mobilenet[weights={weights}]")
    with torch.inference_mode():
        scores = {name: loaded(read_image(data_root / "kodak24" / name)[None].float() / 255).item() for name in expected}
    # the references come from 8-bit integer arithmetic and a resize that rounds twice; they spread from 4.6 to 6.9
    assert max(abs(scores[name] - expected[name]) for name in expected) < 0.05


def test_without_weights_one_line_says_which_are_wanted():
    with pytest.raises(UserError, match=r"nima-mobilenet\[weights=FILE\].*conv1, dw\.0…12, pw\.0…12 and fc") as refused:
        load_model("nima-mobilenet")
    assert "\n" not in str(refused.value)


def test_weights_come_from_a_file_under_the_published_names(model, tmp_path):
    state = model.state_dict()
    names = [f"{layer}.{i}" for layer in ("dw", "pw") for i in range(13)] + ["conv1", "fc"]
    assert set(state) == {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    file = tmp_path / "some.safetensors"
    save_file(state, file)
    loaded = load_model(f"nima-mobilenet[weights={file}]")
    images = random_pixels(2, 40, 50).float() / 255
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
    del state["fc.bias"]
    save_file(state, file)
    with pytest.raises(UserError, match=r"not the weights of NIMAMobileNet .*fc\.bias"):
        load_model(f"nima-mobilenet[weights={file}]")


@pytest.mark.parametrize("shape", [(300, 411), (100, 65), (224, 224)])
def test_images_are_resized_as_pillow_does(model, seen_by_conv1, shape):
    pixels = random_pixels(1, *shape)
    with torch.inference_mode():
        model(pixels.float() / 255)
    small = (seen_by_conv1[0][0, :, :SIDE, :SIDE] + 1) / 2 * 255
    pillow = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    # Pillow rounds to whole levels after the rows and after the columns: at most ½ + ½, and a hair for its fixed point
    assert np.abs(small.permute(1, 2, 0).numpy() - np.asarray(pillow, dtype=np.float64)).max() < 1.05


@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_the_same_of_tensorflow(stride):
    for side in (224, 112, 56, 28, 14):  # 7, the last, is met at stride 1 only, where it is no special case
        total = (math.ceil(side / stride) - 1) * stride + 3 - side  # TensorFlow's definition, the smaller half goes first
        around = (total // 2, total - total // 2)
        maps = torch.rand(1, 2, side, side) + 1
        expected = np.pad(maps.numpy(), ((0, 0), (0, 0), around, around))
        np.testing.assert_array_equal(_same(maps, stride).numpy(), expected)


def test_maps_shrink_five_times_as_in_the_paper_of_mobilenet_and_stay_within_six(model):
    sides = []
    for layer in (model.conv1, *model.dw):
        layer.register_forward_hook(lambda _, inputs, output: sides.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        maps = model.features(random_pixels(1, 60, 70).float() / 255)
        assert maps.shape == (1, 1024, 7, 7)
        assert 0 <= maps.min() < maps.max() < 6
        torch.nn.init.constant_(model.pw[-1].bias, 100.0)
        assert (model.features(random_pixels(1, 60, 70).float() / 255) == 6).all()
    # Howard et al., arXiv 1704.04861, table 1
    early = [(32, 112), (32, 112), (64, 56), (128, 56), (128, 28), (256, 28), (256, 14)]
    expected = [*early, *[(512, 14)] * 5, (512, 7), (1024, 7)]
    assert sides[: len(expected)] == [(channels, side, side) for channels, side in expected]


def test_the_score_is_the_mean_of_the_distribution(model):
    shares = torch.tensor([0.01, 0.02, 0.05, 0.12, 0.2, 0.25, 0.2, 0.1, 0.04, 0.01])
    images = random_pixels(2, 32, 32).float() / 255
    with torch.inference_mode():
        model.fc.weight.zero_()
        model.fc.bias.copy_(shares.log())
        expected = float((shares * torch.arange(1.0, 11.0)).sum())
        torch.testing.assert_close(model(images), torch.full((2,), expected))
        for grade, quality in ((1, 0.0), (10, 1.0)):
            model.fc.bias.zero_()[grade - 1] = 100.0
            torch.testing.assert_close(model(images), torch.full((2,), float(grade)))
            torch.testing.assert_close(model.quality(images), torch.full((2,), quality))


def test_every_pixel_of_a_large_image_counts(model):
    images = (random_pixels(1, 3 * SIDE, 2 * SIDE).float() / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    # a resize without antialiasing would skip more than half of the columns and two thirds of the rows
    assert (gradient != 0).float().mean() > 0.99


def test_gradient_is_that_of_finite_differences_in_any_direction(model):
    model.double()
    stream = torch.Generator().manual_seed(1)
    images = (random_pixels(2, 40, 70).double() / 255).requires_grad_()
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    for _ in range(3):
        direction = torch.randn(images.shape, generator=stream, dtype=torch.float64)
        step = 1e-6 * direction / direction.norm()
        with torch.no_grad():
            change = (model(images + step) - model(images - step)).sum().item() / 2
        # smooth but for the kinks of 27 layers of ReLU6, which so small a step hardly meets
        assert change == pytest.approx((gradient * step).sum().item(), rel=1e-3)


def test_scores_do_not_depend_on_the_batch(model):
    images = random_pixels(4, 50, 90).float() / 255
    with torch.inference_mode():
        together = model(images)
        assert together.shape == (4,)
        alone = torch.cat([model(image[None]) for image in images])
    # float32 sums in another order: some 1e-6 of scores of about 5
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    assert together.std() > 1e-4
