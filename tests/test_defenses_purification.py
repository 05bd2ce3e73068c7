"""Filters against Pillow, SciPy, scikit-image and ART in the same run, their surrogates, and what they refuse."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import MeanModel, random_pixels
from PIL import Image
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle

from bench.arena import Arena
from bench.config import validated
from bench.datasets.demo import Demo
from bench.errors import CannotRun, UserError
from bench.plan import expand
from bench.registry import DEFENSES
from defenses.base import DoesNotApply
from defenses.bridges.art import ArtPreprocessor
from defenses.purification import trained
from defenses.purification.base import Network, Purification, PurifiedModel, straight_through
from defenses.purification.denoiser import Denoiser, ResidualDenoiser
from defenses.purification.diffpure import THROUGH, DiffPure
from defenses.purification.fcn_filter import FCN, FCNFilter
from defenses.purification.median_blur import median_of
from defenses.purification.random_rotate import rotated
from defenses.purification.resize import Resize
from defenses.purification.train_denoiser import Folder, fit, noisy
from defenses.purification.tv_denoise import differentiable_tv
from defenses.purification.wavelet_denoise import wavelet_denoised
from defenses.training.loop import Schedule
from models.base import ModelInfo, QualityModel
from models.zoo import WeightsError, card_of, load_weights, save_weights

WITHOUT_WEIGHTS = (
    "art:FeatureSqueezing", "art:GaussianAugmentation", "art:JpegCompression", "art:SpatialSmoothing", "art:TotalVarMin",
    "bit-depth", "color-quantization", "flip", "gaussian-blur", "jpeg", "median-blur", "random-crop[size=16]",
    "random-noise", "random-rotate", "resize", "tv-denoise", "unsharp", "upscale", "wavelet-denoise",
)  # fmt: skip


class Wave(QualityModel):
    """A smooth function of every pixel that is not even in any of them, of pictures of any size."""

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


def as_batch(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float() / 255


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
    picture = natural / 255
    smooth = ndimage.gaussian_filter(picture, 1.0, mode="mirror", radius=kernel // 2, axes=(0, 1))
    found = as_array(purified(f"unsharp[kernel={kernel}]", as_batch(natural)))
    np.testing.assert_allclose(found, np.clip(2 * picture - smooth, 0, 1), atol=1e-5)


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
    picture = natural[: shape[0], : shape[1]]
    planes = [Image.fromarray((picture[..., c] / 255).astype(np.float32)) for c in range(3)]
    expected = np.stack([np.asarray(p.rotate(degrees, Image.Resampling.BILINEAR)) for p in planes], axis=-1)
    found = as_array(rotated(as_batch(picture), torch.tensor([degrees])))
    # at the edge of the turned picture Pillow does not mix in black: compare where a 3×3 around stays inside
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


def test_random_crop_is_a_part_of_the_picture_and_each_pictures_own():
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
    for picture in (plain, natural / 255 + noise, (natural / 255 + noise)[:85, :61]):
        images = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None]
        # where coefficients are 0 but for rounding, it depends on the library's order of sums which ones it leaves out of σ
        for sigma in (0.02,) if picture is plain else (0.02, None):
            expected = np.clip(denoise_wavelet(picture, sigma=sigma, channel_axis=-1, rescale_sigma=True), 0, 1)
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


PICTURES = ("natural", "odd", "grey", "black", "white", "gradient")


@pytest.mark.parametrize("picture", PICTURES)
def test_the_surrogate_has_a_finite_gradient_that_is_not_zero(purification, picture, natural, pictures):
    images = as_batch(natural) if picture == "natural" else pictures[picture][None].float() / 255
    model = purification.surrogate(Wave())
    leaf = images.clone().requires_grad_()
    torch.manual_seed(0)
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert torch.isfinite(gradient).all()
    if picture == "grey" and "jpeg" in purification.name.lower():
        return  # every coefficient is on a level there, where the stand-in's x³ is flat; a random start leaves such places
    # a random crop of 16×16 leaves out 97 % of 96×96; a median takes one pixel of its window
    assert float((gradient != 0).float().mean()) > 0.02
    assert torch.isfinite(model(images)).all()


# of quality, with the same random draw; all but jpeg have the values of the deployed filter, up to float32's rounding
APART = {"jpeg": 0.005}


@pytest.mark.parametrize("picture", ["natural", "odd"])
def test_the_surrogate_is_close_to_the_deployed_filter(purification, picture, natural, pictures):
    images = as_batch(natural) if picture == "natural" else pictures[picture][None].float() / 255
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


def test_a_filter_takes_each_picture_by_itself_and_changes_nothing_in_place(purification):
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
def test_the_least_side_of_a_resized_picture_is_just_enough(scale, inner):
    resize = Resize(scale)
    least = resize.least(inner)
    sides = [resize.purifier()(torch.zeros(1, 3, side, side)).shape[2] for side in (least, max(least - 1, 1))]
    assert sides[0] >= inner
    assert sides[1] < inner


def test_too_small_pictures_are_refused_with_the_size_that_is_needed():
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
    arena = Arena(Demo(), 1, 8)
    (cell,) = expand(
        validated({"models": ["resnet-iqa"], "defenses": [defense], "attacks": ["random-noise"], "settings": ["oblivious"]})
    )
    with pytest.raises(CannotRun, match=reason):
        arena.check(cell)


# --- networks


@pytest.mark.parametrize("defense", [Denoiser, FCNFilter])
def test_a_filter_without_weights_says_how_to_make_them(defense, monkeypatch, tmp_path):
    monkeypatch.setattr(trained, "weight_file", lambda name: tmp_path / f"{name}.safetensors")
    with pytest.raises(DoesNotApply, match=rf"train_denoiser --filter {defense.name}"):
        defense().protect(MeanModel())
    with pytest.raises(WeightsError, match="cannot be read"):
        defense(weights=str(tmp_path / "gone.safetensors")).protect(MeanModel())


def test_the_weights_of_a_filter_are_part_of_the_deployed_models(weights):
    model = MeanModel()
    found = {Denoiser(weights["denoiser"]).protect(model).info.weights_sha256, model.info.weights_sha256}
    found.add(FCNFilter(weights["fcn-filter"]).protect(model).info.weights_sha256)
    assert len(found) == 3


def test_the_fcn_filter_has_the_published_layers():
    kinds = [type(layer).__name__ for layer in FCN().layers]
    assert kinds == ["Conv2d", "LeakyReLU", "Conv2d", "InstanceNorm2d", "LeakyReLU", "Conv2d", "Tanh"]
    shapes = [tuple(weight.shape) for weight in FCN().parameters() if weight.ndim == 4]
    assert shapes == [(64, 3, 3, 3), (16, 64, 3, 3), (3, 16, 3, 3)]


def test_an_untrained_denoiser_is_the_identity_on_any_size():
    images = random_pixels(1, 33, 47).float() / 255
    torch.testing.assert_close(Network(ResidualDenoiser(), "")(images), images)
    assert sum(weight.numel() for weight in ResidualDenoiser().parameters()) < 300_000


def test_the_shipped_denoiser_takes_noise_off(natural):
    if not trained.weight_file("denoiser").is_file():
        pytest.skip("no weights are shipped")
    images = as_batch(natural)
    for sigma, gain in ((0.05, 2.0), (0.12, 4.0)):  # in dB; its card says what it gains on pictures of the training's kind
        spoilt = noisy(images, torch.Generator().manual_seed(0), sigma)
        restored = purified("denoiser", spoilt)
        errors = [float((some - images).square().mean()) for some in (spoilt.clamp(0, 1), restored)]
        assert 10 * math.log10(errors[0] / errors[1]) > gain


@pytest.mark.parametrize("name", ["denoiser", "fcn-filter"])
def test_training_writes_weights_with_a_card_and_lowers_the_error(name, natural, tmp_path):
    for k in range(3):
        Image.fromarray(np.rot90(natural, k)).save(tmp_path / f"{k}.png")
    passes = {"denoiser": 1, "fcn-filter": 4}[name]
    schedule = Schedule(passes=200 * passes, batch=2, crop=64, learning_rate=3e-3, weight_decay=0.0, ema=0.5, workers=0)
    said: list[float] = []
    file = fit(
        name, Folder(tmp_path), Folder(tmp_path), schedule, tmp_path / "out", lambda progress: said.append(progress.loss)
    )
    network = {"denoiser": ResidualDenoiser, "fcn-filter": FCN}[name]()
    assert load_weights(network, file) == card_of(file)["sha256"]
    assert {"data", "schedule", "budget", "measured", "licence"} <= set(card_of(file))
    assert card_of(file)["budget"]["passes"] == 200 * passes
    assert all(math.isfinite(loss) for loss in said)
    assert not list((tmp_path / "out").glob("*.checkpoint"))


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no JPEG or PNG"):
        Folder(tmp_path)


# --- diffusion


class Unets:
    """Where tiny ones are saved."""

    layouts: ClassVar[tuple[str, ...]] = ("subfolders", "one folder")


@pytest.fixture(scope="module", params=Unets.layouts)
def diffusion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained UNet2DModel with its scheduler, saved as diffusers saves pipelines, or both in one folder."""
    diffusers = pytest.importorskip("diffusers")
    try:
        assert diffusers.UNet2DModel  # imported only now
    except RuntimeError as error:  # beside a torchvision that does not fit torch
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("diffusion")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    split = request.param == "subfolders"
    unet.save_pretrained(folder / "unet" if split else folder)
    diffusers.DDPMScheduler(num_train_timesteps=50).save_pretrained(folder / "scheduler" if split else folder)
    return folder


def test_diffpure_is_the_papers_sampler(diffusion):
    """Against the closed form of DDPM's ancestral steps (Ho, Jain, Abbeel 2020, eq. 7 and 11) in float64."""
    steps = 4
    model = DiffPure(weights=str(diffusion), steps=steps).protect(MeanModel())
    assert isinstance(model, PurifiedModel)
    images = random_pixels(2, 24, 20).float() / 255
    torch.manual_seed(5)
    with torch.inference_mode():
        found = model.purify(images).clone()
    betas = torch.linspace(1e-4, 0.02, 50, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, dim=0)
    unet: torch.nn.Module = model.purify.unet  # type: ignore[union-attr,assignment]
    torch.manual_seed(5)
    start = torch.nn.functional.interpolate(2 * images - 1, (16, 16), mode="bilinear", align_corners=False).double()
    x = kept[steps - 1].sqrt() * start + (1 - kept[steps - 1]).sqrt() * torch.randn(start.shape)
    with torch.inference_mode():
        for t in reversed(range(steps)):
            noise = unet(x.float(), t).sample.double()
            before = kept[t - 1] if t else torch.ones((), dtype=torch.float64)
            x0 = ((x - (1 - kept[t]).sqrt() * noise) / kept[t].sqrt()).clamp(-1, 1)
            mean = (before.sqrt() * betas[t] * x0 + (1 - betas[t]).sqrt() * (1 - before) * x) / (1 - kept[t])
            variance = (1 - before) / (1 - kept[t]) * betas[t]
            x = mean + (variance.sqrt() * torch.randn(start.shape) if t else 0)
    expected = torch.nn.functional.interpolate(x, (24, 20), mode="bilinear", align_corners=False).add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)  # its coefficients and samples are float32


@pytest.mark.parametrize(("steps", "kind"), [(2, "exact"), (THROUGH + 1, "identity")])
def test_the_gradient_of_diffpure_is_exact_while_steps_are_few(steps, kind, diffusion):
    defense = DiffPure(weights=str(diffusion), steps=steps)
    assert defense.surrogate_kind == kind
    model = defense.surrogate(MeanModel())
    leaf = random_pixels(1, 24, 20).float().div(255).requires_grad_()
    torch.manual_seed(1)
    score = model(leaf)
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.5
    if kind == "identity":
        torch.testing.assert_close(gradient, torch.full_like(gradient, 1 / leaf.numel()))
    torch.manual_seed(1)
    with torch.no_grad():
        torch.testing.assert_close(defense.protect(MeanModel())(leaf.detach()), score.detach())


def test_the_weights_of_diffpure_are_part_of_the_deployed_models(diffusion):
    defense = DiffPure(weights=str(diffusion), steps=THROUGH + 1)
    made = [defense.protect(MeanModel()).info.weights_sha256, defense.surrogate(MeanModel()).info.weights_sha256]
    assert made[0] == made[1] != ""


def test_diffpure_asks_for_weights_and_says_what_is_wrong_with_them(diffusion, tmp_path):
    with pytest.raises(DoesNotApply, match=r"diffpure\[weights=FOLDER\]"):
        DiffPure().protect(MeanModel())
    with pytest.raises(WeightsError, match="no UNet2DModel") as error:
        DiffPure(weights=str(tmp_path)).protect(MeanModel())
    assert "\n" not in str(error.value)
    with pytest.raises(DoesNotApply, match="51 steps are more than the 50"):
        DiffPure(weights=str(diffusion), steps=51).protect(MeanModel())


def test_diffpure_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("defenses.purification.diffpure.importlib.import_module", missing)
    with pytest.raises(DoesNotApply, match=r"pip install 'iqarena\[diffusion\]'"):
        DiffPure(weights=str(tmp_path)).protect(MeanModel())
