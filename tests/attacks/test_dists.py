"""DISTS against another library's implementation, its weights in both file formats, and the attack constrained by it."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from iqarena.attacks.dists import DISTS, load
from iqarena.attacks.threat import Threat
from iqarena.attacks.zhang_dists import ZhangDISTS
from tests.support.analytic_models import LinearModel
from tests.support.attack_runs import SMALL_THREATS, craft, random_pixels

WIDTHS = (4, 6, 8, 10, 12)
"""Channels of the five stages of a small DISTS network."""


def small_weights(widths=WIDTHS, seed=0):
    """Return random DISTS weights under torchvision's names, for a network of the given widths."""
    generator = torch.Generator().manual_seed(seed)
    weights, before = {}, 3
    stages = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    for stage, width in zip(stages, widths, strict=True):
        for layer in stage:
            kernel = torch.randn(width, before, 3, 3, generator=generator) * math.sqrt(2 / (9 * before))
            weights |= {f"features.{layer}.weight": kernel, f"features.{layer}.bias": torch.zeros(width)}
            before = width
    count = 3 + sum(widths)
    return weights | {name: torch.rand(1, count, 1, 1, generator=generator) for name in ("alpha", "beta")}


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("dists") / "small.safetensors"
    safetensors.torch.save_file(small_weights(), path)
    return str(path)


def doubles(count, height, width, seed=0):
    return torch.rand(count, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_dists_is_piqs(size, monkeypatch):
    piq, torchvision = pytest.importorskip("piq"), pytest.importorskip("torchvision")
    weights = small_weights((64, 128, 256, 512, 512))
    total = weights["alpha"].sum() + weights["beta"].sum()
    vgg = torchvision.models.vgg  # without the classifier, whose 120 million weights nobody needs
    features = vgg.make_layers(vgg.cfgs["D"])
    features.load_state_dict(
        {name.partition(".")[2]: value for name, value in weights.items() if name.startswith("features")}
    )
    monkeypatch.setattr("piq.perceptual.vgg16", lambda **_: SimpleNamespace(features=features))
    ratios = {name: weights[name] / total for name in ("alpha", "beta")}
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: ratios)
    theirs, ours = piq.DISTS(reduction="none"), DISTS(weights)
    x, y = (doubles(2, *size, seed=seed).float() for seed in (14, 15))
    for leaf in (x, (x + 0.05 * (y - 0.5)).clamp(0, 1)):
        leaf.requires_grad_()
        result, piq_result = ours(leaf, ours.features(y)), theirs(leaf, y)
        assert torch.allclose(result, piq_result, atol=1e-5)
        (slope,), (expected,) = (torch.autograd.grad(value.sum(), leaf) for value in (result, piq_result))
        assert torch.allclose(slope, expected, atol=1e-3 * float(expected.abs().max()))


def test_dists_is_nought_for_the_same_image_and_grows_with_noise():
    dists, clean = DISTS(small_weights()), doubles(2, 40, 33, seed=16).float()
    features, noise = dists.features(clean), doubles(2, 40, 33, seed=17).float() - 0.5
    distances = [dists((clean + share * noise).clamp(0, 1), features) for share in (0, 0.05, 0.2, 0.8)]
    assert (distances[0].abs() < 1e-5).all()
    assert all((near < far).all() for near, far in pairwise(distances))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_gradient_of_dists_is_finite_on_flat_images(level):
    dists, flat = DISTS(small_weights()), torch.full((1, 3, 20, 20), level)
    leaf = (flat - 0.01).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(dists(leaf, dists.features(flat)).sum(), leaf)
    assert torch.isfinite(gradient).all()


def test_dists_weights_are_read_from_either_kind_of_file(tmp_path, weights_file):
    torch.save(small_weights(), tmp_path / "small.pth")
    x, y = doubles(1, 24, 24, seed=18).float(), doubles(1, 24, 24, seed=19).float()
    both = [dists(x, dists.features(y)) for dists in (load(weights_file), load(tmp_path / "small.pth"))]
    assert torch.equal(*both)


def test_unfit_weights_are_refused_with_what_is_needed(tmp_path):
    weights = small_weights()
    del weights["features.10.bias"]
    with pytest.raises(ValueError, match=r"lack features\.10\.bias; needed is"):
        DISTS(weights)
    with pytest.raises(ValueError, match="43 values"):
        DISTS(small_weights() | {"alpha": torch.ones(5)})
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "bad.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="by name"):
        load(tmp_path / "list.pth")


def test_zhang_dists_without_weights_says_what_file_it_needs(tmp_path, weights_file):
    linf = SMALL_THREATS["linf"]
    assert "weights=FILE" in ZhangDISTS().refusal(linf, 32, 32)
    assert "github.com/dingkeyan93/DISTS" in ZhangDISTS().refusal(linf, 32, 32)
    assert "no file" in ZhangDISTS(weights=str(tmp_path / "none.pth")).refusal(linf, 32, 32)
    assert ZhangDISTS(weights=weights_file).refusal(linf, 32, 32) == ""
    assert "SSIM" in ZhangDISTS(weights=weights_file).refusal(SMALL_THREATS["ssim"], 8, 8)


def test_zhang_dists_keeps_images_nearer_in_dists(weights_file, natural):
    crop = torch.from_numpy(natural).permute(2, 0, 1)[None].contiguous()
    model, dists, distances = LinearModel(96, 96), load(weights_file), []
    for weight in (0.0, 10.0):
        attack = ZhangDISTS(weights=weights_file, similarity=weight)
        _, stored, _ = craft(attack, model, crop, "raise", Threat("linf", 8 / 255))
        distances.append(float(dists(stored.pixels.float() / 255, dists.features(crop.float() / 255))))
    assert distances[1] < distances[0]


def test_zhang_dists_gives_an_image_the_same_alone_and_in_a_batch(weights_file):
    attack, model, clean = ZhangDISTS(weights=weights_file, similarity=10.0), LinearModel(), random_pixels(3)
    together = craft(attack, model, clean, "lower", SMALL_THREATS["linf"])[1].pixels
    alone = torch.cat([craft(attack, model, clean[i : i + 1], "lower", SMALL_THREATS["linf"])[1].pixels for i in range(3)])
    # convolutions add up in another order in a batch: one level, where a value falls on the middle between two
    assert int((together.int() - alone.int()).abs().max()) <= 1
    assert float((together != alone).float().mean()) < 0.01
