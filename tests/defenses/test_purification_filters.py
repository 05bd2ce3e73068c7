"""Deployed filters against Pillow, SciPy, scikit-image and ART."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle

from iqarena.defenses.purification.random_rotate import rotated
from iqarena.defenses.purification.tv_denoise import differentiable_tv
from iqarena.defenses.purification.wavelet_denoise import wavelet_denoised
from tests.support.attack_runs import random_pixels
from tests.support.filters import as_array, as_batch, purified

# float32 arithmetic in another order: a tolerance of 1e-5 is 80 roundings


@pytest.mark.parametrize("kernel", [3, 7])
def test_gaussian_blur_is_scipys(kernel, natural):
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    expected = ndimage.gaussian_filter(natural / 255, sigma, mode="mirror", radius=kernel // 2, axes=(0, 1))
    np.testing.assert_allclose(as_array(purified(f"gaussian-blur[kernel={kernel}]", as_batch(natural))), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_unsharp_is_scipys_blur_taken_away(kernel, natural):
    image = natural / 255
    smooth = ndimage.gaussian_filter(image, 1.0, mode="mirror", radius=kernel // 2, axes=(0, 1))
    result = as_array(purified(f"unsharp[kernel={kernel}]", as_batch(natural)))
    np.testing.assert_allclose(result, np.clip(2 * image - smooth, 0, 1), atol=1e-5)


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
    result = as_array(rotated(as_batch(image), torch.tensor([degrees])))
    # at the edge of the turned image Pillow does not mix in black: compare where a 3×3 around stays inside
    whole = Image.new("F", shape[::-1], 1.0).rotate(degrees, Image.Resampling.BILINEAR)
    inside = ndimage.minimum_filter(np.asarray(whole), 5, mode="constant") == 1
    assert inside.mean() > 0.5
    np.testing.assert_allclose(result[inside], expected[inside], atol=2e-4)  # Pillow uses fixed-point coordinates


@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_a_square_turned_by_right_angles_is_numpys(degrees, natural):
    result = as_array(rotated(as_batch(natural), torch.tensor([degrees])))
    np.testing.assert_allclose(result, np.rot90(natural / 255, int(degrees / 90)), atol=1e-3)  # cos 90° is 4e-8, not 0


@pytest.mark.parametrize(("spec", "levels"), [("bit-depth[bits=3]", 8), ("color-quantization[levels=5]", 5)])
def test_rounding_is_arts_feature_squeezing_or_numpys(spec, levels, natural):
    result = as_array(purified(spec, as_batch(natural)))
    np.testing.assert_allclose(result, np.rint(natural / 255 * (levels - 1)) / (levels - 1), atol=1e-6)
    assert len(np.unique(result)) <= levels
    if spec.startswith("bit-depth"):
        squeezing = importlib.import_module("art.defences.preprocessor").FeatureSqueezing
        expected = squeezing(clip_values=(0.0, 1.0), bit_depth=3)(natural / 255)[0]
        np.testing.assert_allclose(result, expected, atol=1e-6)


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
    positions = set()
    for image, cut in zip(images, cuts, strict=True):
        windows = image.unfold(1, 9, 1).unfold(2, 9, 1).permute(1, 2, 0, 3, 4)
        (position,) = (windows == cut).flatten(2).all(dim=2).nonzero()
        positions.add(tuple(position.tolist()))
    assert len(positions) > 1


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
    """Check without PyWavelets: white noise on a ramp, whose Haar coefficients are noise alone."""
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
    parameters = ",".join(f"{key}={value}" for key, value in options.items())
    preprocessor = getattr(importlib.import_module("art.defences.preprocessor"), spec)(clip_values=(0.0, 1.0), **options)
    expected = preprocessor((natural / 255).astype(np.float32)[None])[0][0]
    assert (as_array(purified(f"art:{spec}[{parameters}]", as_batch(natural))) == expected.astype(np.float32)).all()


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
