"""Layers against SciPy's SVD; a network's gradient against its constant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.certified.layers import BoundedConv2d, MaxMin
from iqarena.defenses.certified.lipschitz import Lipschitz, LipschitzIQA
from iqarena.models.base import ModelInfo
from iqarena.models.resnet_iqa import ResNetIQA
from iqarena.models.zoo import save_weights
from tests.support.analytic_models import MeanModel


def matrix_of(layer: torch.nn.Module, channels: int, height: int, width: int) -> np.ndarray:
    """Return the explicit matrix of a layer on maps of the given size, without its bias."""
    inputs = torch.eye(channels * height * width).view(-1, channels, height, width)
    with torch.no_grad():
        zero = layer(torch.zeros_like(inputs[:1]))
        return (layer(inputs) - zero).flatten(1).T.double().numpy()


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize(("channels_in", "channels_out"), [(3, 8), (6, 4)])
@pytest.mark.parametrize("spread", [0.0, 0.1, 10.0])
def test_layers_have_a_spectral_norm_of_at_most_one(patches, channels_in, channels_out, spread):
    torch.manual_seed(0)
    layer = BoundedConv2d(channels_in, channels_out, 2 if patches else 3, patches)
    with torch.no_grad():
        layer.weight += spread * torch.randn_like(layer.weight)
        layer.bias.normal_()
    norm = linalg.svdvals(matrix_of(layer, channels_in, 6, 6)).max()
    assert norm <= 1 + 1e-6  # float32
    # tight for orthonormal columns, of which there are no more than outputs; a layer of fewer outputs gives some away
    tall = channels_out >= channels_in * (4 if patches else 1)
    least = 0.3 if spread else 0.999 if tall else 0.7
    assert norm > least, "a bound that silences the layer is of no use"


def test_a_layer_of_zeros_is_zero():
    layer = BoundedConv2d(2, 4, 3)
    torch.nn.init.zeros_(layer.weight)
    assert layer(torch.rand(1, 2, 5, 5)).abs().sum() == 0


def test_maxmin_sorts_pairs_and_lengthens_nothing():
    a, b = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    sorted_a, sorted_b = MaxMin()(a), MaxMin()(b)
    torch.testing.assert_close(sorted_a[:, :4], torch.maximum(a[:, :4], a[:, 4:]))
    torch.testing.assert_close(sorted_a[:, 4:], torch.minimum(a[:, :4], a[:, 4:]))
    assert ((sorted_a - sorted_b).norm(dim=1) <= (a - b).norm(dim=1) + 1e-6).all()


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (19, 33)])
def test_gradient_of_the_network_is_no_longer_than_its_constant(size):
    torch.manual_seed(0)
    model = LipschitzIQA(20.0, MeanModel.info).eval()
    for spread in (0.0, 0.02):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(spread * torch.randn_like(weight))
        leaf = torch.rand(20, 3, *size).requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
        lengths = gradient.flatten(1).norm(dim=1)
        assert (lengths <= model.constant(*size) * (1 + 1e-4)).all()
        assert (lengths > 0).all()
        x, y = torch.rand(2, 20, 3, *size)
        moved = (model(x) - model(y)).abs()
        assert (moved <= model.constant(*size) * (x - y).flatten(1).norm(dim=1) + 1e-5).all()


def test_constant_in_words_of_the_image_is_slope_times_rms():
    model = LipschitzIQA(20.0, MeanModel.info)
    shift = 2 / 255 * math.sqrt(3 * 64 * 48)  # 2/255 in every value
    assert model.constant(64, 48) * shift == pytest.approx(20 * 2 / 255)


def test_lipschitz_is_trained_saved_and_certified_as_one(tmp_path):
    torch.manual_seed(0)
    recipe, model = Lipschitz(), ResNetIQA()
    with pytest.raises(DoesNotApply, match="`iqarena train --model elsewhere --defense lipschitz"):
        recipe.protect(MeanModel.__new__(type("Elsewhere", (MeanModel,), {"info": ModelInfo("elsewhere")})))
    network = recipe.prepare(model).train()
    images = torch.rand(8, 3, 32, 32) * torch.linspace(0.2, 1, 8).view(-1, 1, 1, 1)
    labels = torch.linspace(0, 1, 8)
    optimizer, losses = torch.optim.AdamW(network.parameters(), 5e-3), []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):  # as the training loop does
            loss = recipe.loss(network, images, labels, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    path = tmp_path / "w.safetensors"
    save_weights(network, path, {"recipe": {"slope": 20.0}})
    defense = Lipschitz(weights=str(path))
    certificate = defense.certify(model, images, 0.5)
    centre = defense.protect(model).quality(images).detach().double()
    width = certificate.upper - certificate.lower
    torch.testing.assert_close((certificate.upper + certificate.lower) / 2, centre, atol=1e-6, rtol=0)
    assert certificate.confidence == 1
    assert (width - 2 * 0.5 * 20 / math.sqrt(3 * 32 * 32)).abs().max() < 1e-4
    with pytest.raises(DoesNotApply, match=r"trained with slope=20\.0, not 5"):
        Lipschitz(weights=str(path), slope=5.0).protect(model)
    with pytest.raises(ValueError, match="slope 0 is not above 0"):
        Lipschitz(slope=0.0)
