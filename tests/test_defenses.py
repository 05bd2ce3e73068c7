"""JPEG against Pillow, the soft rank against SciPy and finite differences, trained defenses with broken weights."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from conftest import MeanModel, random_pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from bench.registry import DEFENSES
from defenses.base import DoesNotApply
from defenses.cprl.activation import SoftRankActivation, soft_rank
from defenses.cprl.cprl import CPRL, CPRLModel
from defenses.none import NoDefense
from defenses.purification.jpeg import JPEG, differentiable_jpeg, quantization_table, real_jpeg, soft_round
from defenses.training.adversarial import AdversarialTraining
from models.cnniqa import CNNIQA
from models.resnet_iqa import ResNetIQA
from models.zoo import WeightsError, card_of, load_weights, save_weights


def as_batch(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float() / 255


# --- JPEG


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_deployed_jpeg_is_pillows_own(quality, natural):
    file = io.BytesIO()
    Image.fromarray(natural).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        expected = np.asarray(opened)
    found = (real_jpeg(as_batch(natural), quality)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert (found == expected).all()


def test_deployed_jpeg_codes_each_picture_by_itself(natural):
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
    apart = float((real - smooth).abs().mean()) * 255
    coding = float((real - images).abs().mean()) * 255
    # apart by design: rounding x → ⌊x⌉ + (x − ⌊x⌉)³ is off by |x − ⌊x⌉|³, 1/32 of a quantisation step on average where
    # coding is off by 1/4 of one; and libjpeg rounds to whole levels (1/4 on average) three times: YCbCr, its DCT, RGB
    assert apart < coding / 8 + 3 / 4
    assert coding > 3, "the case must be one where coding changes the picture"


@pytest.mark.parametrize("other", [30, 70])
def test_surrogate_is_closer_to_the_codec_at_its_own_quality_than_at_another(other, natural):
    images = as_batch(natural)
    smooth = differentiable_jpeg(images, 50)
    apart = [float((real_jpeg(images, quality) - smooth).abs().mean()) for quality in (50, other)]
    assert apart[0] < 0.5 * apart[1]


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
def test_jpeg_of_a_flat_picture_is_that_picture(level):
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


def test_jpeg_defense_scores_the_coded_picture_and_offers_a_gradient_through_its_surrogate(natural):
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


# --- the soft rank

distinct = st.lists(st.integers(-50, 50), min_size=2, max_size=12, unique=True).map(
    lambda v: torch.tensor(v, dtype=torch.float64)
)
any_values = st.lists(st.floats(-5, 5), min_size=2, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(distinct)
def test_soft_rank_is_the_hard_rank_in_the_limit(strengths):
    # whole numbers within ±50 deviate by at most 71 (two of them), so neighbours are 140 τ apart: the sigmoid is 0 or 1
    found = soft_rank(strengths[None], 1e-4)[0]
    np.testing.assert_allclose(found, stats.rankdata(-strengths.numpy()), atol=1e-6)


def test_soft_rank_of_ties_is_the_mid_rank():
    strengths = torch.tensor([[3.0, 1.0, 1.0, 0.0]])
    # equal strengths share sigmoid(0) = 1/2 each; the others are 0.8 standard deviations and more away from them
    np.testing.assert_allclose(soft_rank(strengths, 1e-4)[0], stats.rankdata([-3.0, -1.0, -1.0, 0.0]), atol=1e-5)


@given(any_values, st.floats(0.01, 2))
def test_soft_ranks_are_in_their_range_and_add_up(strengths, temperature):
    ranks = soft_rank(strengths[None], temperature)[0]
    count = len(strengths)
    assert (ranks >= 1 - 1e-6).all()
    assert (ranks <= count + 1e-6).all()
    # sigmoid(d) + sigmoid(−d) = 1: each pair shares one
    assert float(ranks.sum()) == pytest.approx(count * (count + 1) / 2, abs=1e-6)


@given(any_values, st.randoms(use_true_random=False))
def test_soft_rank_goes_along_with_a_permutation_of_the_channels(strengths, random):
    order = list(range(len(strengths)))
    random.shuffle(order)
    torch.testing.assert_close(soft_rank(strengths[None, order], 0.3), soft_rank(strengths[None], 0.3)[:, order])


def test_soft_rank_of_equal_strengths_is_the_middle_with_a_finite_gradient():
    strengths = torch.full((1, 5), 0.7, requires_grad=True)
    ranks = soft_rank(strengths, 0.1)
    torch.testing.assert_close(ranks, torch.full((1, 5), 3.0))
    (gradient,) = torch.autograd.grad(ranks[0, 0], strengths)
    assert torch.isfinite(gradient).all()


def test_gradient_of_the_soft_rank_is_that_of_finite_differences():
    strengths = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_rank(s, 0.5), (strengths,))


def test_gradient_of_the_activation_is_that_of_finite_differences():
    class Double(SoftRankActivation):
        """The mask is computed in float32 by choice; here its formula is checked in float64."""

        def mask(self, features):
            channels = features.shape[1]
            ranks = soft_rank(features.abs().mean(dim=(2, 3)), self.temperature)
            return torch.sigmoid((self.keep * channels - ranks) / (self.sharpness * channels))

    features = torch.randn(2, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    real, double = SoftRankActivation(0.5, 0.5, 0.2), Double(0.5, 0.5, 0.2)
    torch.testing.assert_close(real(features), double(features), atol=1e-5, rtol=1e-5)  # float32 mask
    assert torch.autograd.gradcheck(double, (features.requires_grad_(),))
    slopes = [torch.autograd.grad(layer(features).square().sum(), features)[0] for layer in (real, double)]
    torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-4)


def test_mask_keeps_the_strong_channels_and_is_strictly_between_zero_and_one():
    features = torch.arange(1.0, 9.0).view(1, 8, 1, 1).expand(1, 8, 4, 4) * torch.tensor([1.0, -1.0] * 4).view(1, 8, 1, 1)
    mask = SoftRankActivation(keep=0.5, temperature=0.05, sharpness=0.05).mask(features)[0]
    assert ((mask > 0) & (mask < 1)).all()
    assert (mask.diff() > 0).all()  # by strength, whatever the sign
    assert (mask[:4] < 0.5 + 1e-6).all()
    assert (mask[4:] >= 0.5 - 1e-6).all()
    # with keep = ½ the last channel that is kept sits right on the edge (rank 4 of ρC = 4), its neighbours 2½ widths off it
    assert float(mask[4]) == pytest.approx(0.5, abs=0.01)
    assert float(mask[5]) > 0.9
    assert float(mask[3]) < 0.1


def test_activation_multiplies_each_channel_by_its_mask_picture_by_picture():
    features = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(2))
    layer = SoftRankActivation(0.5, 0.1, 0.05)
    torch.testing.assert_close(layer(features), features * layer.mask(features)[:, :, None, None])
    torch.testing.assert_close(layer(features)[1:2], layer(features[1:2]))


# --- trained defenses


def test_no_defense_is_the_model_itself():
    model = MeanModel()
    assert NoDefense().protect(model) is model
    assert NoDefense().surrogate(model) is model


def test_cprl_does_not_apply_to_a_model_without_feature_maps():
    with pytest.raises(DoesNotApply, match="visible feature maps"):
        CPRL().protect(CNNIQA())


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


def test_cprl_puts_the_activation_between_feature_maps_and_head():
    torch.manual_seed(0)
    model = ResNetIQA().eval()
    prepared = CPRL().prepare(model).eval()
    assert isinstance(prepared, CPRLModel)
    images = random_pixels(2, 64, 64).float() / 255
    expected = model.head(SoftRankActivation(0.5, 0.1, 0.05)(model.features(images)), 2)
    torch.testing.assert_close(prepared(images), expected)


def test_training_losses_are_finite_scalars_that_reach_the_weights():
    torch.manual_seed(0)
    images, labels = random_pixels(2, 64, 64).float() / 255, torch.tensor([0.2, 0.9])
    for defense in (NoDefense(), AdversarialTraining(), CPRL()):
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
    else:  # nothing in it is like no card
        load_weights(CNNIQA(), saved)
