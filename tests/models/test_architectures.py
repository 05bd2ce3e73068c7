"""Components of the papers' networks against closed forms, plain loops and, where installed, torchvision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from iqarena.models.dbcnn import DBCNN
from iqarena.models.hyperiqa import HyperIQA, _apply, windows
from iqarena.models.imagenet import normalized
from iqarena.models.linearity_iqa import LinearityIQA, norm_in_norm
from iqarena.models.resnet import SHAPES, ResNet
from iqarena.models.resnet_iqa_nf import ALPHA, ResNetIQANF, StandardizedConv2d, scaled_relu
from iqarena.models.vgg import vgg16_maps
from iqarena.models.wadiqam_nr import LEAST_WEIGHT, PATCH, WaDIQaMNR, WaDIQaMNRFull
from tests.support.attack_runs import random_pixels


def random_images(count: int = 2, height: int = 70, width: int = 66) -> torch.Tensor:
    return random_pixels(count, height, width).float() / 255


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- backbones


@pytest.mark.parametrize("name", SHAPES)
def test_residual_trunks_are_torchvisions_weight_by_weight(name):
    library = pytest.importorskip("torchvision.models", exc_type=Exception, reason="needs torchvision")
    with torch.device("meta"):  # its initialisation takes seconds and is not needed
        theirs = getattr(library, name)(weights=None)
        ours = ResNet(name)
    torch.manual_seed(0)
    theirs.to_empty(device="cpu").eval()
    for key, value in theirs.state_dict().items():
        if key.endswith("running_var"):
            value.fill_(1)
        elif value.is_floating_point():
            value.normal_(0, math.sqrt(2 / value[0].numel()) if value.ndim > 1 else 0.1)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state, assign=True)
    stages = nn.ModuleList([theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4])
    with torch.inference_mode():
        result = ours.eval().stages(random_images())
        maps = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(random_images()))))
        for stage, own in zip(stages, result, strict=True):
            maps = stage(maps)
            # the same operations in another layout of memory, which adds in another order
            torch.testing.assert_close(own, maps, atol=1e-5 * float(maps.abs().max()), rtol=1e-4)
    assert tuple(maps.shape[1] for maps in result) == SHAPES[name].widths


def test_vgg_is_torchvisions_weight_by_weight():
    library = pytest.importorskip("torchvision.models", exc_type=Exception, reason="needs torchvision")
    with torch.device("meta"):
        theirs = library.vgg16(weights=None).features
    ours = vgg16_maps().eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    with torch.inference_mode():
        assert torch.equal(theirs[:-1](random_images()), ours(random_images()))


def test_images_are_normalised_as_for_imagenet():
    images = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    assert normalized(images).abs().max() < 1e-6
    ones = normalized(torch.ones(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(ones, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))


# --- wadiqam-nr


def test_wadiqam_is_the_weighted_mean_over_patches_of_two_heads():
    torch.manual_seed(0)
    model = WaDIQaMNR().eval()
    images = random_images(2, 70, 100)
    total, weights = torch.zeros(2), torch.zeros(2)
    with torch.inference_mode():
        for top in (0, 32):
            for left in (0, 32, 64):
                patch = (images[..., top : top + PATCH, left : left + PATCH] - 0.45) / 0.25
                maps = patch
                for layer in model.blocks:
                    maps = layer(maps)
                weight = model.weigh(maps.flatten(1)).clamp(min=0) + LEAST_WEIGHT
                total += (weight * model.regress(maps.flatten(1))).squeeze(1)
                weights += weight.squeeze(1)
        torch.testing.assert_close(model(images), total / weights)


def test_wadiqam_without_any_weight_is_the_plain_mean():
    torch.manual_seed(0)
    model = WaDIQaMNR().eval()
    nn.init.constant_(model.weigh[-1].bias, -1e3)
    with torch.inference_mode():
        maps = model.features(random_images(2, 64, 64))
        torch.testing.assert_close(model.head(maps, 2), model.regress(maps.flatten(1)).view(2, 4).mean(dim=1))


def test_wadiqam_has_the_papers_layers_and_half_of_their_width():
    for cls, narrower in ((WaDIQaMNRFull, 1), (WaDIQaMNR, 2)):
        convolutions = [layer for layer in cls().blocks if isinstance(layer, nn.Conv2d)]
        assert [layer.out_channels * narrower for layer in convolutions] == [
            32, 32, 64, 64, 128, 128, 256, 256, 512, 512,
        ]  # fmt: skip
    # Bosse et al., section III: about 5.2 million parameters with both heads
    assert parameters(WaDIQaMNRFull()) == pytest.approx(5.2e6, rel=0.01)


# --- resnet-iqa-nf


def test_standardised_filters_have_no_mean_and_the_length_of_their_gain():
    torch.manual_seed(0)
    layer = StandardizedConv2d(3, 5, 3, 1, 1)
    nn.init.normal_(layer.weight, 0.7, 2)
    nn.init.uniform_(layer.gain, 0.5, 2)
    impulse = torch.zeros(3, 3, 3, 3)
    impulse[range(3), range(3), 1, 1] = 1
    seen = layer(impulse).permute(1, 0, 2, 3).flatten(1)  # the filters, mirrored
    torch.testing.assert_close(seen.sum(dim=1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.norm(dim=1), layer.gain.flatten())


def test_variance_stays_as_it_is_worked_out_through_all_blocks():
    torch.manual_seed(0)
    model = ResNetIQANF()
    with torch.inference_mode():
        maps = torch.randn(4, 24, 64, 64)
        torch.testing.assert_close(scaled_relu(torch.randn(10**6)).var(), torch.tensor(1.0), atol=0.01, rtol=0)
        for block, expected in zip(model.blocks, (1, 1, 1, 1 + ALPHA**2), strict=True):
            maps = block(maps)
            # a few hundred independent values at the end, of networks that are drawn: within a third
            assert float(maps.var()) == pytest.approx(expected + ALPHA**2, rel=0.35)


def test_images_of_a_batch_never_meet_even_in_training():
    torch.manual_seed(0)
    model = ResNetIQANF().train()
    images = random_images(3)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not [name for name, _ in model.named_buffers()]


# --- dbcnn


def test_dbcnn_is_the_mean_outer_product_under_a_root_at_length_one():
    torch.manual_seed(0)
    model = DBCNN().eval()
    maps = torch.rand(2, 640, 3, 4)
    with torch.inference_mode():
        scores = model.head(maps, 2)
        for image, score in zip(maps.double().numpy(), scores, strict=True):
            one, two = image[:512].reshape(512, -1), image[512:].reshape(128, -1)
            products = np.sqrt(sum(np.outer(one[:, i], two[:, i]) for i in range(12)) / 12)
            unit = (products / np.linalg.norm(products)).flatten()
            expected = unit @ model.fc.weight[0].double().numpy() + float(model.fc.bias)
            assert float(score) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (70, 67), (33, 47)])
def test_dbcnn_brings_both_networks_to_one_grid(shape):
    model = DBCNN().eval()
    with torch.inference_mode():
        maps = model.features(random_images(1, *shape))
    assert maps.shape == (1, 640, shape[0] // 16, shape[1] // 16)


def test_s_cnn_has_the_papers_layers():
    with torch.device("meta"):
        layers = [layer for layer in DBCNN().features2 if isinstance(layer, nn.Conv2d)]
    # Zhang et al., figure 2
    assert [layer.out_channels for layer in layers] == [48, 48, 64, 64, 64, 64, 128, 128, 128]
    assert [layer.stride[0] for layer in layers] == [1, 2, 1, 2, 1, 2, 1, 1, 2]


# --- hyperiqa


def test_layers_made_for_each_image_are_linear_layers():
    torch.manual_seed(0)
    weight, values, bias = torch.randn(3, 5, 4), torch.randn(3, 4), torch.randn(3, 5)
    expected = torch.stack([functional.linear(v, w, b) for w, v, b in zip(weight, values, bias, strict=True)])
    torch.testing.assert_close(_apply(weight, values, bias), expected)


@pytest.mark.parametrize(
    ("shape", "corners"),
    [
        ((224, 224), [(0, 0)]),
        ((100, 224), [(0, 0)]),
        ((225, 200), [(0, 0), (1, 0)]),
        ((384, 512), [(0, 0), (0, 144), (0, 288), (160, 0), (160, 144), (160, 288)]),
    ],
)
def test_windows_cover_an_image_evenly_from_edge_to_edge(shape, corners):
    places = torch.arange(shape[0] * shape[1]).view(1, 1, *shape)
    result = windows(places)
    assert [divmod(int(window[0, 0, 0, 0]), shape[1]) for window in result] == corners
    assert torch.equal(torch.cat([window.flatten() for window in result]).unique(), places.flatten())


def test_hyperiqa_is_the_mean_over_windows():
    torch.manual_seed(0)
    model = HyperIQA().eval()
    images = random_images(1, 230, 100)
    with torch.inference_mode():
        halves = torch.stack([model(images[..., top : top + 224, :]) for top in (0, 6)])
        torch.testing.assert_close(model(images), halves.mean(dim=0))


def test_hyperiqa_at_224_pools_as_the_paper_does(monkeypatch):
    torch.manual_seed(0)
    model = HyperIQA().eval()
    images = random_images(1, 224, 224)
    with torch.inference_mode():
        score = model(images)
        plain = {"lda1_pool": 8, "lda2_pool": 4, "lda3_pool": 2, "lda4_pool": 1}
        for name, side in plain.items():  # 7×7 means, stride 7, of maps of 56, 28, 14 and 7
            pool = getattr(model.res, name)
            setattr(model.res, name, nn.Sequential(*pool[:-1], nn.AvgPool2d(7, 7)) if side > 1 else nn.AvgPool2d(7, 7))
        torch.testing.assert_close(model(images), score)


def test_hyperiqa_names_its_weights_as_the_authors_do():
    with torch.device("meta"):
        state = HyperIQA().state_dict()
    shapes = {name: tuple(state[name].shape) for name in state if name.startswith(("fc", "res.lda"))}
    assert shapes["fc1w_conv.weight"] == (512, 112, 3, 3)
    assert shapes["fc4b_fc.weight"] == (14, 112)
    assert shapes["fc5w_fc.weight"] == (14, 112)
    assert shapes["res.lda1_fc.weight"] == (16, 1024)
    assert shapes["res.lda4_fc.weight"] == (176, 2048)
    assert len(shapes) == 2 * 10 + 2 * 4 + 3


# --- linearity-iqa


def test_norm_in_norm_with_two_squares_is_one_minus_the_correlation():
    stream = np.random.default_rng(0)
    ours, theirs = stream.normal(size=20), stream.normal(size=20)
    result = norm_in_norm(torch.from_numpy(ours), torch.from_numpy(theirs), p=2, q=2)
    assert float(result) == pytest.approx((1 - stats.pearsonr(ours, theirs).statistic) / 2, rel=1e-12)


@pytest.mark.parametrize(("p", "q"), [(1.0, 2.0), (2.0, 2.0), (1.0, 1.0), (2.0, 1.0)])
def test_norm_in_norm_is_none_for_a_line_and_at_most_one(p, q):
    labels = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(norm_in_norm(3 * labels - 7, labels, p, q)) == pytest.approx(0, abs=1e-12)
    assert 0 < float(norm_in_norm(-labels, labels, p, q)) <= 1 + 1e-12
    noise = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert 0 < float(norm_in_norm(noise, labels, p, q)) < 1


def test_norm_in_norm_reaches_one_where_its_bound_is_met():
    # two values that are turned around: ‖ŝ − s‖₁ = 2·√2, which is what 2·√N allows
    labels = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert float(norm_in_norm(-labels, labels)) == pytest.approx(1, abs=1e-12)


def test_norm_in_norm_by_hand():
    # centred: (−1, 0, 1)/√2 and (−2, 1, 1)/√6; differences 0.1094, −0.4082, 0.2989; over 2·√3
    result = norm_in_norm(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 3.0, 3.0]))
    first, second, third = 2 / math.sqrt(6) - 1 / math.sqrt(2), 1 / math.sqrt(6), 1 / math.sqrt(2) - 1 / math.sqrt(6)
    assert float(result) == pytest.approx((first + second + third) / (2 * math.sqrt(3)), rel=1e-5)


def test_norm_in_norm_of_equal_predictions_is_finite_and_so_is_its_gradient():
    predictions = torch.zeros(8, requires_grad=True)
    loss = norm_in_norm(predictions, torch.rand(8))
    (gradient,) = torch.autograd.grad(loss, predictions)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.fixture(scope="module")
def linear():
    """The model `linearity-iqa` with given feature streams; its convolutions are never run."""
    with torch.device("meta"):
        model = LinearityIQA()
    model.moments = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return model


def test_linearity_fits_the_line_of_least_squares(linear, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def given(images):
        return predictions, predictions, predictions

    monkeypatch.setattr(linear, "streams", given)
    all_predictions, all_labels = [], []
    for _ in range(1500):  # a momentum of 1 % forgets where it began to 3·10⁻⁷
        predictions = 40 + 5 * torch.randn(16, generator=generator)
        labels = 0.5 + 0.02 * (predictions - 40) + 0.02 * torch.randn(16, generator=generator)
        loss = linear.training_loss(torch.empty(0), labels)
        all_predictions.append(predictions)
        all_labels.append(labels)
    assert float(loss) == pytest.approx(float(norm_in_norm(predictions, labels)) * 1.2, rel=1e-5)
    expected = stats.linregress(torch.cat(all_predictions[-400:]), torch.cat(all_labels[-400:]))
    predictions = torch.tensor([30.0, 40.0, 50.0])
    line = expected.intercept + expected.slope * predictions.numpy()
    # the last 400 batches evenly against all of them with a weight that falls: slopes within some per cent
    np.testing.assert_allclose(linear(torch.empty(0)), line, atol=0.02)


def test_linearity_begins_with_its_own_predictions(linear, monkeypatch):
    linear.moments = torch.tensor([0.0, 0.0, 1.0, 1.0])
    given = torch.tensor([0.3, -2.0])
    monkeypatch.setattr(linear, "streams", lambda images: (given, given, given))
    torch.testing.assert_close(linear(torch.empty(0)), given)
