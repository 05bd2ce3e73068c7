"""JPEG against Pillow, trained defenses with broken weights."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from iqarena.bench.registry import DEFENSES
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.cprl.cprl import CPRL
from iqarena.defenses.cprl.cprl_sortmask import CPRLSortMask
from iqarena.defenses.none import NoDefense
from iqarena.defenses.purification.jpeg import JPEG, differentiable_jpeg, quantization_table, real_jpeg, soft_round
from iqarena.defenses.training.adversarial import AdversarialTraining
from iqarena.models.cnniqa import CNNIQA
from iqarena.models.resnet_iqa import ResNetIQA
from iqarena.models.zoo import ZOO, WeightsError, card_of, chosen_file, load_weights, save_weights
from tests.support.analytic_models import MeanModel
from tests.support.attack_runs import random_pixels


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255


# --- JPEG


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_deployed_jpeg_is_pillows_own(quality, natural):
    file = io.BytesIO()
    Image.fromarray(natural).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        expected = np.asarray(opened)
    result = (real_jpeg(as_batch(natural), quality)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert (result == expected).all()


def test_deployed_jpeg_codes_each_image_by_itself(natural):
    images = torch.cat([as_batch(natural), as_batch(natural[::-1])])
    together = real_jpeg(images, 30)
    assert torch.equal(together[1:], real_jpeg(images[1:], 30))
    assert not together.requires_grad


def test_quantization_tables_are_those_that_pillow_writes():
    other = []
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
        with Image.open(file) as opened:
            written = opened.quantization
        ours = [quantization_table(quality, chroma).flatten().int().tolist() for chroma in (False, True)]
        if ours != [list(written[0]), list(written[1])]:
            other.append(quality)
    assert not other


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_surrogate_is_close_to_the_deployed_codec(quality, natural):
    images = as_batch(natural)
    real, smooth = real_jpeg(images, quality), differentiable_jpeg(images, quality)
    distance = float((real - smooth).abs().mean()) * 255
    coding = float((real - images).abs().mean()) * 255
    # apart by design: rounding x → ⌊x⌉ + (x − ⌊x⌉)³ is off by |x − ⌊x⌉|³, 1/32 of a quantisation step on average where
    # coding is off by 1/4 of one; and libjpeg rounds to whole levels (1/4 on average) three times: YCbCr, its DCT, RGB
    assert distance < coding / 8 + 3 / 4
    assert coding > 3, "the case must be one where coding changes the image"


@pytest.mark.parametrize("other", [30, 70])
def test_surrogate_is_closer_to_the_codec_at_its_own_quality_than_at_another(other, natural):
    images = as_batch(natural)
    smooth = differentiable_jpeg(images, 50)
    distances = [float((real_jpeg(images, quality) - smooth).abs().mean()) for quality in (50, other)]
    assert distances[0] < 0.5 * distances[1]


@pytest.mark.parametrize("shape", [(16, 16), (33, 47), (8, 200), (1, 1)])
def test_surrogate_takes_any_size_and_gives_a_finite_gradient_everywhere(shape):
    images = (random_pixels(2, *shape).float() / 255).requires_grad_()
    out = differentiable_jpeg(images, 50)
    assert out.shape == images.shape
    assert ((out >= 0) & (out <= 1)).all()
    (gradient,) = torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), images)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.5
    assert real_jpeg(images, 50).shape == images.shape


@pytest.mark.parametrize("level", [0, 128, 255])
def test_jpeg_of_a_flat_image_is_that_image(level):
    images = torch.full((1, 3, 24, 24), level / 255)
    # only the mean of a block is coded; at quality 95 in steps of 2/8 grey levels, which the codec rounds to whole ones
    assert (real_jpeg(images, 95) - images).abs().max() * 255 <= 1 + 1e-3
    assert (differentiable_jpeg(images, 95) - images).abs().max() * 255 <= 1 + 1e-3


@given(st.floats(-50, 50))
def test_soft_rounding_is_within_an_eighth_of_rounding_and_has_the_stated_slope(value):
    leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    out = soft_round(leaf)
    nearest = float(leaf.detach().round())
    assert abs(float(out.detach()) - nearest) <= 1 / 8 + 1e-9
    (slope,) = torch.autograd.grad(out, leaf)
    assert float(slope) == pytest.approx(3 * (value - nearest) ** 2, abs=1e-9)


def test_surrogate_is_differentiable_after_the_codec_has_run_in_inference_mode(natural):
    with torch.inference_mode():
        differentiable_jpeg(as_batch(natural), 50)
    images = as_batch(natural).requires_grad_()
    (gradient,) = torch.autograd.grad(differentiable_jpeg(images, 50).mean(), images)
    assert gradient.abs().sum() > 0


def test_jpeg_defense_scores_the_coded_image_and_offers_a_gradient_through_its_surrogate(natural):
    images, defense = as_batch(natural), JPEG(quality=10)
    model = MeanModel()
    torch.testing.assert_close(defense.protect(model)(images), model(real_jpeg(images, 10)))
    torch.testing.assert_close(defense.surrogate(model)(images), model(differentiable_jpeg(images, 10)))
    leaf = images.clone().requires_grad_()
    assert not defense.protect(model)(leaf).requires_grad
    assert defense.surrogate(model)(leaf).requires_grad


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_jpeg_quality_outside_its_range_is_refused(quality):
    with pytest.raises(ValueError, match=r"outside 1 … 100"):
        JPEG(quality=quality)


# --- trained defenses


def test_no_defense_is_the_model_itself():
    model = MeanModel()
    assert NoDefense().protect(model) is model
    assert NoDefense().surrogate(model) is model


@pytest.mark.parametrize("name", ["cprl", "adversarial-training"])
def test_a_trained_defense_without_weights_says_how_to_make_them(name):
    class Elsewhere(ResNetIQA):
        pass

    Elsewhere.info = ResNetIQA.info.__class__("no-such-model", min_size=64)
    with pytest.raises(DoesNotApply, match=f"`iqarena train --model no-such-model --defense {name}"):
        DEFENSES.build(name).protect(Elsewhere())


@pytest.mark.parametrize("defense", [CPRL(), AdversarialTraining()], ids=["cprl", "adversarial-training"])
def test_a_trained_defense_puts_its_weights_into_a_copy(defense, tmp_path):
    torch.manual_seed(0)
    model, trained = ResNetIQA().eval(), defense.prepare(ResNetIQA()).eval()
    path = tmp_path / "w.safetensors"
    save_weights(trained, path, {"model": "resnet-iqa"})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    protected = defense.__class__(weights=str(path)).protect(model)
    images = random_pixels(2, 64, 64).float() / 255
    torch.testing.assert_close(protected(images), trained(images))
    assert protected.info.weights_sha256 == card_of(path)["sha256"]
    assert not protected.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.info.weights_sha256 != protected.info.weights_sha256


def test_weights_are_named_by_label_or_file(tmp_path):
    assert chosen_file("", "m") == ZOO / "m.safetensors"
    assert chosen_file("seed1", "m") == ZOO / "m@seed1.safetensors"
    assert chosen_file("seed1", "m", "cprl") == ZOO / "m+cprl@seed1.safetensors"
    for file in ("./seed1", "w.safetensors", "runs/seed1", str(tmp_path / "w.safetensors")):
        assert chosen_file(file, "m", "cprl") == Path(file)
    with pytest.raises(WeightsError, match=r"resnet-iqa\+cprl@no-such-label\.safetensors: cannot be read"):
        CPRL(weights="no-such-label").protect(ResNetIQA())


def test_labels_that_are_not_shipped_may_lie_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    own = tmp_path / "m+cprl@mine.safetensors"
    assert chosen_file("mine", "m", "cprl") == ZOO / own.name
    monkeypatch.setenv("IQARENA_WEIGHTS", str(tmp_path))
    assert chosen_file("mine", "m", "cprl") == own
    assert chosen_file("mine.safetensors", "m", "cprl") == Path("mine.safetensors")
    assert chosen_file("", "resnet-iqa", "cprl") == ZOO / "resnet-iqa+cprl.safetensors"
    # a label means the shipped weights first
    zoo = tmp_path / "zoo"
    monkeypatch.setattr("iqarena.models.zoo.ZOO", zoo)
    assert chosen_file("mine", "m", "cprl") == own
    zoo.mkdir()
    (zoo / own.name).touch()
    assert chosen_file("mine", "m", "cprl") == zoo / own.name


def test_training_losses_are_finite_scalars_that_reach_the_weights():
    torch.manual_seed(0)
    images, labels = random_pixels(2, 64, 64).float() / 255, torch.tensor([0.2, 0.9])
    for defense in (NoDefense(), AdversarialTraining(), CPRL(), CPRLSortMask()):
        model = defense.prepare(ResNetIQA()).train()
        loss = defense.loss(model, images, labels, 0.5)
        assert loss.shape == ()
        loss.backward()
        assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())
        assert model.training


# --- weight files


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(CNNIQA(), path, {"model": "cnniqa"})
    return path


def test_weights_come_back_as_they_were_saved(saved):
    torch.manual_seed(1)
    model = CNNIQA()
    sha256 = load_weights(model, saved)
    assert sha256 == card_of(saved)["sha256"]
    assert card_of(saved)["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert sorted(file.name for file in saved.parent.iterdir()) == ["model.safetensors", "model.yaml"]


def test_a_changed_byte_differs_from_the_card(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors: sha256 .* of its card"):
        load_weights(CNNIQA(), saved)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", None])
def test_a_damaged_file_without_a_card_is_told_apart(saved, content):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2] if content is None else content)
    saved.with_suffix(".yaml").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors: not a safetensors file") as error:
        load_weights(CNNIQA(), saved)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_named(saved):
    with pytest.raises(WeightsError, match="not the weights of ResNetIQA") as error:
        load_weights(ResNetIQA(), saved)
    assert "\n" not in str(error.value)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.safetensors: cannot be read"):
        load_weights(CNNIQA(), tmp_path / "gone.safetensors")
    with pytest.raises(WeightsError, match=r"gone\.safetensors: cannot be read"):
        AdversarialTraining(weights=str(tmp_path / "gone.safetensors")).protect(ResNetIQA())


@pytest.mark.parametrize("card", ["", "- a list\n", "sha256: [\n"])
def test_a_card_that_is_no_mapping_is_a_weights_error(saved, card):
    saved.with_suffix(".yaml").write_text(card)
    if card:
        with pytest.raises(WeightsError, match=r"model\.yaml"):
            load_weights(CNNIQA(), saved)
    else:  # an empty card is treated as a missing card
        load_weights(CNNIQA(), saved)
