"""Filters against Pillow, SciPy, scikit-image and ART in the same run, their surrogates, and what they refuse."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle

from iqarena.bench.cells import expand
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import CannotRun, UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.registry import DEFENSES
from iqarena.bench.suite import validated
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.bridges.art import ArtPreprocessor
from iqarena.defenses.purification.base import Purification, PurifiedModel, straight_through
from iqarena.defenses.purification.denoiser import Denoiser, ResidualDenoiser
from iqarena.defenses.purification.fcn_filter import FCN, FCNFilter
from iqarena.defenses.purification.median_blur import median_of
from iqarena.defenses.purification.random_rotate import rotated
from iqarena.defenses.purification.resize import Resize
from iqarena.defenses.purification.tv_denoise import differentiable_tv
from iqarena.defenses.purification.wavelet_denoise import wavelet_denoised
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.zoo import save_weights
from tests.support.analytic_models import MeanModel
from tests.support.attack_runs import random_pixels

WITHOUT_WEIGHTS = (
    "art:FeatureSqueezing", "art:GaussianAugmentation", "art:JpegCompression", "art:SpatialSmoothing", "art:TotalVarMin",
    "bit-depth", "color-quantization", "flip", "gaussian-blur", "jpeg", "median-blur", "random-crop[size=16]",
    "random-noise", "random-rotate", "resize", "tv-denoise", "unsharp", "upscale", "wavelet-denoise",
)  # fmt: skip


class Wave(QualityModel):
    """A smooth function of every pixel that is not even in any of them, of images of any size."""

    info = ModelInfo("wave", min_size=8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        places = torch.arange(images[0].numel(), dtype=images.dtype, device=images.device).view_as(images[0])
        return ((1.3 + torch.cos(places)) * images * (1 + images)).mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random weights of the networks, so that conduct can be tested without the trained ones."""
    folder, made = tmp_path_factory.mktemp("weights"), {}
    torch.manual_seed(0)
    for name, network in (("denoiser", ResidualDenoiser()), ("fcn-filter", FCN())):
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.05)
        save_weights(network, folder / f"{name}.safetensors", {})
        made[name] = str(folder / f"{name}.safetensors")
    return made


@pytest.fixture(params=[*WITHOUT_WEIGHTS, "denoiser", "fcn-filter"])
def purification(request: pytest.FixtureRequest, weights: dict[str, str]) -> Purification:
    built = DEFENSES.build(request.param)
    if request.param in weights:
        built = replace(built, weights=weights[request.param])
    assert isinstance(built, Purification)
    return built


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255


def as_array(images: torch.Tensor) -> np.ndarray:
    return images[0].permute(1, 2, 0).numpy()


def purified(spec: str, images: torch.Tensor) -> torch.Tensor:
    model = DEFENSES.build(spec).protect(MeanModel())
    assert isinstance(model, PurifiedModel)
    with torch.inference_mode():
        return model.purify(images).clone()


# --- deployed filters against other libraries; float32 against the same arithmetic in another order: 1e-5 is 80 roundings


@pytest.mark.parametrize("kernel", [3, 7])
def test_gaussian_blur_is_scipys(kernel, natural):
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    expected = ndimage.gaussian_filter(natural / 255, sigma, mode="mirror", radius=kernel // 2, axes=(0, 1))
    np.testing.assert_allclose(as_array(purified(f"gaussian-blur[kernel={kernel}]", as_batch(natural))), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_unsharp_is_scipys_blur_taken_away(kernel, natural):
    image = natural / 255
    smooth = ndimage.gaussian_filter(image, 1.0, mode="mirror", radius=kernel // 2, axes=(0, 1))
    found = as_array(purified(f"unsharp[kernel={kernel}]", as_batch(natural)))
    np.testing.assert_allclose(found, np.clip(2 * image - smooth, 0, 1), atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_median_blur_is_scipys(kernel, natural):
    expected = ndimage.median_filter(natural, size=(kernel, kernel, 1), mode="mirror")
    assert (as_array(purified(f"median-blur[kernel={kernel}]", as_batch(natural)) * 255).round() == expected).all()


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.9])
def test_resize_is_pillows(scale, natural):
    side = math.floor(96 * scale)
    planes = [Image.fromarray((natural[..., c] / 255).astype(np.float32)) for c in range(3)]
    expected = np.stack([np.asarray(p.resize((side, side), Image.Resampling.BILINEAR)) for p in planes], axis=-1)
    np.testing.assert_allclose(as_array(purified(f"resize[scale={scale}]", as_batch(natural))), expected, atol=1e-5)


def test_upscale_is_pillows_there_and_back(natural):
    planes = [Image.fromarray((natural[..., c] / 255).astype(np.float32)) for c in range(3)]
    small = [p.resize((48, 48), Image.Resampling.BILINEAR) for p in planes]
    expected = np.stack([np.asarray(p.resize((96, 96), Image.Resampling.BILINEAR)) for p in small], axis=-1)
    np.testing.assert_allclose(as_array(purified("upscale", as_batch(natural))), expected, atol=1e-5)


def test_flip_is_pillows_half_turn(natural):
    expected = np.asarray(Image.fromarray(natural).transpose(Image.Transpose.ROTATE_180))
    assert (as_array(purified("flip", as_batch(natural)) * 255).round() == expected).all()


@pytest.mark.parametrize("degrees", [-30.0, 12.5])
@pytest.mark.parametrize("shape", [(96, 96), (64, 96)])
def test_rotation_is_pillows(degrees, shape, natural):
    image = natural[: shape[0], : shape[1]]
    planes = [Image.fromarray((image[..., c] / 255).astype(np.float32)) for c in range(3)]
    expected = np.stack([np.asarray(p.rotate(degrees, Image.Resampling.BILINEAR)) for p in planes], axis=-1)
    found = as_array(rotated(as_batch(image), torch.tensor([degrees])))
    # at the edge of the turned image Pillow does not mix in black: compare where a 3×3 around stays inside
    whole = Image.new("F", shape[::-1], 1.0).rotate(degrees, Image.Resampling.BILINEAR)
    inside = ndimage.minimum_filter(np.asarray(whole), 5, mode="constant") == 1
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], expected[inside], atol=2e-4)  # Pillow steps through places in fixed point


@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_a_square_turned_by_right_angles_is_numpys(degrees, natural):
    found = as_array(rotated(as_batch(natural), torch.tensor([degrees])))
    np.testing.assert_allclose(found, np.rot90(natural / 255, int(degrees / 90)), atol=1e-3)  # cos 90° is 4e-8, not 0


@pytest.mark.parametrize(("spec", "levels"), [("bit-depth[bits=3]", 8), ("color-quantization[levels=5]", 5)])
def test_rounding_is_arts_feature_squeezing_or_numpys(spec, levels, natural):
    found = as_array(purified(spec, as_batch(natural)))
    np.testing.assert_allclose(found, np.rint(natural / 255 * (levels - 1)) / (levels - 1), atol=1e-6)
    assert len(np.unique(found)) <= levels
    if spec.startswith("bit-depth"):
        squeezing = importlib.import_module("art.defences.preprocessor").FeatureSqueezing
        expected = squeezing(clip_values=(0.0, 1.0), bit_depth=3)(natural / 255)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_random_noise_has_the_stated_size_and_stays_in_range():
    grey = torch.full((4, 3, 64, 64), 0.5)
    added = purified("random-noise[sigma=0.05]", grey) - 0.5
    # 49,152 draws: the standard deviation of the estimate is σ/√(2n) = 0.32 % of σ, of the mean σ/√n
    assert float(added.std()) == pytest.approx(0.05, rel=0.016)
    assert abs(float(added.mean())) < 5 * 0.05 / math.sqrt(added.numel())
    dark = purified("random-noise[sigma=0.5]", torch.zeros(1, 3, 8, 8))
    assert ((dark >= 0) & (dark <= 1)).all()


def test_random_crop_is_a_part_of_the_image_and_each_images_own():
    images = random_pixels(6, 20, 24).float() / 255
    cuts = purified("random-crop[size=9]", images)
    places = set()
    for image, cut in zip(images, cuts, strict=True):
        windows = image.unfold(1, 9, 1).unfold(2, 9, 1).permute(1, 2, 0, 3, 4)
        (found,) = (windows == cut).flatten(2).all(dim=2).nonzero()
        places.add(tuple(found.tolist()))
    assert len(places) > 1


@pytest.mark.parametrize("weight", [0.03, 0.1])
def test_tv_denoise_is_scikit_images(weight, natural):
    expected = denoise_tv_chambolle((natural / 255).astype(np.float32), weight=weight, channel_axis=-1)
    assert (as_array(purified(f"tv-denoise[weight={weight}]", as_batch(natural))) == expected).all()


def test_the_iteration_of_the_tv_surrogate_is_scikit_images(natural):
    images = as_batch(natural)
    # with an energy threshold of zero its solver stops at the count; only 10⁻⁶ under the root differs, hence the tolerance
    expected = denoise_tv_chambolle(as_array(images), weight=0.1, eps=0.0, max_num_iter=11, channel_axis=-1)
    np.testing.assert_allclose(as_array(differentiable_tv(images, 0.1, 10)), expected, atol=1e-4)


def test_wavelet_denoise_is_scikit_images(natural):
    pytest.importorskip("pywt")
    from skimage.restoration import denoise_wavelet

    noise = np.random.default_rng(0).normal(0, 0.03, natural.shape)
    plain = natural / 255
    for image in (plain, natural / 255 + noise, (natural / 255 + noise)[:85, :61]):
        images = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
        # where coefficients are 0 but for rounding, it depends on the library's order of sums which ones it leaves out of σ
        for sigma in (0.02,) if image is plain else (0.02, None):
            expected = np.clip(denoise_wavelet(image, sigma=sigma, channel_axis=-1, rescale_sigma=True), 0, 1)
            np.testing.assert_allclose(as_array(wavelet_denoised(images, sigma)), expected, atol=1e-6)


def test_wavelet_denoise_takes_off_half_of_a_known_noise():
    """Without PyWavelets: white noise on a ramp, whose Haar coefficients are noise alone."""
    ramp = torch.linspace(0.3, 0.7, 128).expand(1, 3, 128, 128)
    spoilt = ramp + 0.03 * torch.randn(ramp.shape, generator=torch.Generator().manual_seed(0))
    restored = wavelet_denoised(spoilt, None)
    assert float((restored - ramp).std()) < 0.5 * float((spoilt - ramp).std())
    assert torch.equal(wavelet_denoised(spoilt, None)[:, :, :7], restored[:, :, :7])


@pytest.mark.parametrize(
    ("spec", "options"),
    [("FeatureSqueezing", {"bit_depth": 4}), ("SpatialSmoothing", {"window_size": 5}), ("JpegCompression", {"quality": 30})],
)
def test_bridged_preprocessors_are_the_toolboxs(spec, options, natural):
    given = ",".join(f"{key}={value}" for key, value in options.items())
    made = getattr(importlib.import_module("art.defences.preprocessor"), spec)(clip_values=(0.0, 1.0), **options)
    expected = made((natural / 255).astype(np.float32)[None])[0][0]
    assert (as_array(purified(f"art:{spec}[{given}]", as_batch(natural))) == expected.astype(np.float32)).all()


def test_a_bridged_random_preprocessor_follows_torchs_seed_and_leaves_numpys_alone(natural):
    images = as_batch(natural[:24, :24])
    for spec in ("art:TotalVarMin", "art:GaussianAugmentation"):
        before = np.random.get_state()[1].copy()
        torch.manual_seed(1)
        first, other = purified(spec, images), purified(spec, images)
        torch.manual_seed(1)
        assert torch.equal(purified(spec, images), first)
        assert not torch.equal(other, first)
        assert (np.random.get_state()[1] == before).all()


# --- surrogates


IMAGES = ("natural", "odd", "grey", "black", "white", "gradient")


@pytest.mark.parametrize("image", IMAGES)
def test_the_surrogate_has_a_finite_gradient_that_is_not_zero(purification, image, natural, images):
    images = as_batch(natural) if image == "natural" else images[image][None].float() / 255
    model = purification.surrogate(Wave())
    leaf = images.clone().requires_grad_()
    torch.manual_seed(0)
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert torch.isfinite(gradient).all()
    if image == "grey" and "jpeg" in purification.name.lower():
        return  # every coefficient is on a level there, where the stand-in's x³ is flat; a random start leaves such places
    # a random crop of 16×16 leaves out 97 % of 96×96; a median takes one pixel of its window
    assert float((gradient != 0).float().mean()) > 0.02
    assert torch.isfinite(model(images)).all()


# of quality, with the same random draw; all but jpeg have the values of the deployed filter, up to float32's rounding
APART = {"jpeg": 0.005}


@pytest.mark.parametrize("image", ["natural", "odd"])
def test_the_surrogate_is_close_to_the_deployed_filter(purification, image, natural, images):
    images = as_batch(natural) if image == "natural" else images[image][None].float() / 255
    scores = []
    for model in (purification.protect(MeanModel()), purification.surrogate(MeanModel())):
        torch.manual_seed(3)
        assert isinstance(model, PurifiedModel)
        with torch.no_grad():
            scores.append(model.purify(images))
    assert float((scores[0].mean() - scores[1].mean()).abs()) <= APART.get(purification.name, 1e-6)
    if purification.name not in APART:
        torch.testing.assert_close(scores[0], scores[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "spec", ["flip", "gaussian-blur", "unsharp", "resize", "upscale", "wavelet-denoise", "random-crop[size=5]"]
)
def test_exact_gradients_are_those_of_finite_differences(spec):
    images = 0.2 + 0.6 * torch.rand(1, 3, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    purify = DEFENSES.build(spec).purifier()

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return purify(x)

    assert torch.autograd.gradcheck(seeded, (images.requires_grad_(),), eps=1e-6, atol=1e-5)


def test_the_gradient_of_the_tv_iteration_is_that_of_finite_differences():
    images = torch.rand(1, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: differentiable_tv(x, 0.1, 4), (images,), eps=1e-7, atol=1e-4)


def test_the_gradient_of_a_median_goes_to_the_pixel_that_is_it():
    images = random_pixels(1, 7, 7).float().requires_grad_()
    (gradient,) = torch.autograd.grad(median_of(images, 7)[0, 1, 3, 3], images)
    (place,) = gradient.nonzero()
    window = images.detach()[0, 1]
    assert window[place[2], place[3]] == window.flatten().median()


def test_straight_through_gives_the_filters_values_and_the_identitys_gradient():
    leaf = random_pixels(1).float().requires_grad_()
    out = straight_through(torch.round)(leaf / 255)
    assert torch.equal(out, (leaf / 255).round())
    assert torch.autograd.grad(out.sum(), leaf)[0].eq(1 / 255).all()


# --- conduct


def test_a_filter_takes_each_image_by_itself_and_changes_nothing_in_place(purification):
    images = random_pixels(3, 24, 26).float() / 255
    kept = images.clone()
    purify = purification.purifier()
    with torch.inference_mode():
        together = purify(images)
        assert together.shape[:2] == (3, 3)
        assert ((together >= 0) & (together <= 1)).all()
        if not purification.stochastic:
            # other libraries' convolutions may sum in another order in a batch
            torch.testing.assert_close(purify(images[1:2]), together[1:2], atol=1e-6, rtol=0)
    assert torch.equal(images, kept)


def test_stochastic_filters_say_so_and_follow_torchs_seed(purification):
    images = random_pixels(1, 32, 32).float() / 255
    purify = purification.purifier()
    with torch.inference_mode():
        torch.manual_seed(0)
        first, second = purify(images), purify(images)
        torch.manual_seed(0)
        assert torch.equal(purify(images), first)
    assert torch.equal(first, second) != purification.stochastic


def test_a_filter_that_says_that_pixels_stay_keeps_the_size(purification):
    images = random_pixels(1, 33, 47).float() / 255
    assert purification.moves_pixels or purification.purifier()(images).shape == images.shape


@pytest.mark.parametrize(
    "spec",
    [
        "color-quantization[levels=1]", "bit-depth[bits=0]", "bit-depth[bits=9]", "random-rotate[degrees=0]",
        "random-crop[size=0]", "resize[scale=0]", "resize[scale=1.5]", "upscale[scale=-1]", "upscale[scale=.nan]",
        "gaussian-blur[kernel=4]", "median-blur[kernel=1]", "unsharp[kernel=-3]", "random-noise[sigma=0]",
        "random-noise[sigma=.inf]", "tv-denoise[weight=0]", "wavelet-denoise[sigma=0]", "diffpure[steps=0]",
        "art:SpatialSmoothing[window_size=4]", "art:FeatureSqueezing[bit_depth=0]", "art:JpegCompression[quality=101]",
        "art:TotalVarMin[clip_values=1]", "art:TotalVarMin[nonsense=1]", "art:Cutout", "art:Nonsense",
    ],
)  # fmt: skip
def test_parameters_without_sense_are_one_line(spec):
    with pytest.raises(UserError) as error:
        DEFENSES.build(spec)
    assert "\n" not in str(error.value)


def test_every_preprocessor_of_the_toolbox_is_on_offer_or_refused_with_a_reason():
    toolbox = importlib.import_module("art.defences.preprocessor")
    base = toolbox.Preprocessor
    classes = {name for name, made in vars(toolbox).items() if isinstance(made, type) and issubclass(made, base)} - {
        base.__name__
    }
    offered = {name.partition(":")[2] for name in DEFENSES.names() if name.startswith("art:")}
    refused = ArtPreprocessor.refused()
    assert classes == offered | set(refused)
    assert not offered & set(refused)


# --- sizes


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("inner", [7, 64])
def test_the_least_side_of_a_resized_image_is_just_enough(scale, inner):
    resize = Resize(scale)
    least = resize.least(inner)
    sides = [resize.purifier()(torch.zeros(1, 3, side, side)).shape[2] for side in (least, max(least - 1, 1))]
    assert sides[0] >= inner
    assert sides[1] < inner


def test_too_small_images_are_refused_with_the_size_that_is_needed():
    assert DEFENSES.build("random-crop[size=24]").protect(Wave()).info.min_size == 24
    assert DEFENSES.build("resize").protect(Wave()).info.min_size == 16
    assert DEFENSES.build("gaussian-blur[kernel=21]").protect(Wave()).info.min_size == 11
    with pytest.raises(DoesNotApply, match="leaves 4×4, and 8×8 is needed"):
        DEFENSES.build("random-crop[size=4]").protect(Wave())
    with pytest.raises(ValueError, match="16×16 is smaller than the crop"):
        purified("random-crop[size=17]", torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("defense", "reason"),
    [
        ("random-crop[size=256]", r"resnet-iqa behind random-crop\[size=256\] needs 256×256"),
        ("random-crop[size=32]", "leaves 32×32"),
    ],
)
def test_a_crop_that_does_not_fit_skips_the_cell_with_the_reason(defense, reason):
    evaluator = Evaluator(Demo(), 1, 8)
    (cell,) = expand(
        validated({"models": ["resnet-iqa"], "defenses": [defense], "attacks": ["random-noise"], "settings": ["oblivious"]})
    )
    with pytest.raises(CannotRun, match=reason):
        evaluator.ids.check(cell)


def test_the_weights_of_a_filter_are_part_of_the_deployed_models(weights):
    model = MeanModel()
    found = {Denoiser(weights["denoiser"]).protect(model).info.weights_sha256, model.info.weights_sha256}
    found.add(FCNFilter(weights["fcn-filter"]).protect(model).info.weights_sha256)
    assert len(found) == 3
