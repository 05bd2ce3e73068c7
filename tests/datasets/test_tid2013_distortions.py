"""The reconstructed distortions of TID2013 against closed forms, other libraries and their published statistics."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from skimage.color import rgb2ycbcr

from iqarena.bench.datasets.tid2013_reconstructed import distortions as tid
from iqarena.bench.datasets.tid2013_reconstructed.distortions import DISTORTIONS, psnr

BY_NAME = pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda d: d.name.replace(" ", "-"))
KIND = {distortion.number: distortion for distortion in DISTORTIONS}
RANDOM = {1, 2, 3, 5, 6, 19}
GREY = np.full((128, 128, 3), 128, np.uint8)
LEVELS = range(1, 6)


def stream(seed=0):
    return np.random.RandomState(seed)


# --- all types


@BY_NAME
def test_a_distortion_repeats_by_name_and_leaves_its_input_and_the_global_stream_alone(distortion, natural):
    before, state = natural.copy(), np.random.get_state()[1].copy()
    first = distortion.apply(natural, 3, "a")
    assert first.dtype == np.uint8
    assert first.shape == natural.shape
    assert (first != natural).any()
    assert (first == distortion.apply(natural, 3, "a")).all()
    assert (first == distortion.apply(natural, 3, "b")).all() == (distortion.number not in RANDOM)
    assert (natural == before).all()
    assert (np.random.get_state()[1] == state).all()


@BY_NAME
def test_a_higher_level_is_farther_from_the_image(distortion, natural):
    values = [psnr(distortion.apply(natural, level, "a"), natural) for level in LEVELS]
    assert all(high > low for high, low in itertools.pairwise(values)), values


@BY_NAME
@pytest.mark.parametrize("value", [0, 255])
def test_a_flat_image_comes_back(distortion, value):
    assert distortion.apply(np.full((24, 20, 3), value, np.uint8), 5, "a").shape == (24, 20, 3)


@pytest.mark.parametrize(
    ("number", "strength", "off"),
    # 18 makes the luminance whole, which may move a sample by 0.5 · 255/219 and then to the next whole number
    [
        (1, 0, 0),
        (2, 0, 0),
        (3, 0, 0),
        (5, 0, 0),
        (6, 0, 0),
        (7, 1, 0),
        (8, 0.05, 0),
        (16, 0, 0),
        (17, 1, 0),
        (18, 0, 1),
        (19, 0, 0),
        (23, 0, 0),
    ],
)
def test_no_strength_is_no_change(number, strength, off, natural):
    out = KIND[number].distort(natural, strength, stream())
    assert np.abs(out.astype(int) - natural).max() <= off


@pytest.mark.parametrize("number", [11, 18, 19, 22, 23])
def test_tuned_types_are_on_their_ladder(number, natural):
    distortion = KIND[number]
    for level, wanted in enumerate(distortion.ladder, 1):
        result = psnr(distortion.apply(natural, level, "a"), natural)
        # a number of colours is whole, and two, the least, may be too good; so few pixels make JPEG 2000's rates coarse
        assert result == pytest.approx(wanted, abs={22: 1.0, 11: 0.3}.get(number, 2 * tid.CLOSE))


def test_tuning_goes_as_far_as_it_can():
    # grey has no colour to lose and its edges no colours to move apart: the image itself is the nearest there is
    ramp = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(24, axis=1)
    assert np.abs(KIND[18].apply(ramp, 5, "a").astype(int) - ramp).max() <= 1
    assert (KIND[23].apply(ramp, 5, "a") == ramp).all()


# --- noise


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_noise_has_its_variance(number, level):
    variance = KIND[number].strengths[level - 1]
    error = KIND[number].apply(GREY, level, "a").astype(float) - GREY
    # rounding adds 1/12; 49,152 samples know a variance to 0.6 %, and one in nine of them to 2 %
    assert error.var() == pytest.approx(variance + 1 / 12, rel=0.06 if number == 3 else 0.02)
    assert abs(error.mean()) < 5 * math.sqrt(variance / error.size) * 3


@pytest.mark.parametrize(
    ("number", "lags"),
    # a 3×3 mean overlaps itself by 6, 4 and 3 of 9 pixels; white noise without it: (−2/9 + 6/81) / (8/9) at the next pixel
    [
        (1, {(0, 1): 0, (1, 1): 0}),
        (3, {(0, 1): 6 / 9, (1, 1): 4 / 9, (0, 2): 3 / 9, (0, 3): 0}),
        (5, {(0, 1): -1 / 6, (1, 0): -1 / 6}),
    ],
)
def test_noise_has_its_spatial_correlation_and_none_between_colours(number, lags):
    error = KIND[number].apply(GREY, 3, "a").astype(float) - GREY
    for (down, right), expected in lags.items():
        moved = np.roll(error, (down, right), axis=(0, 1))
        assert (error * moved).mean() / error.var() == pytest.approx(expected, abs=0.03)
    between = np.corrcoef(error.reshape(-1, 3).T)
    assert np.abs(between - np.eye(3)).max() < 0.06


def test_color_noise_is_stronger_in_colour():
    out = tid.color_noise(GREY, 40, stream())
    error = (rgb2ycbcr(out) - rgb2ycbcr(GREY)).reshape(-1, 3)
    # 16,384 pixels know a variance to 1.1 %; rounding R, G and B adds some 0.03
    assert error.var(axis=0) == pytest.approx([40, 164, 164], rel=0.05)


def test_impulses_hit_their_share_of_samples_with_any_value():
    share, black = 0.1, np.zeros((200, 200, 3), np.uint8)
    out = tid.impulse_noise(black, share, stream())
    hit = out[out > 0]
    expected = share * 255 / 256  # a zero over black cannot be seen
    assert hit.size / out.size == pytest.approx(expected, abs=5 * math.sqrt(expected / out.size))
    assert stats.kstest((hit - 1) / 254, "uniform").pvalue > 0.01  # of a fixed seed
    assert not (out > 0).all(axis=2).sum() > 3 * out.shape[0] * out.shape[1] * share**3  # one sample at a time, not a pixel


def test_pixel_impulses_hit_whole_pixels():
    share, black = 0.1, np.zeros((200, 200, 3), np.uint8)
    out = tid.pixel_impulse_noise(black, share, stream())
    hit = (out > 0).any(axis=2)
    assert hit.mean() == pytest.approx(share, abs=5 * math.sqrt(share / hit.size))
    assert np.abs(np.corrcoef(out[hit].T) - np.eye(3)).max() < 0.1  # each has its own value
    assert (out[hit] > 0).mean() == pytest.approx(255 / 256, abs=0.01)


def test_multiplicative_noise_grows_with_the_sample():
    deviations = [
        (tid.multiplicative_noise(np.full_like(GREY, v), 0.1, stream()).astype(float) - v).std() for v in (64, 128)
    ]
    assert deviations == pytest.approx([6.4, 12.8], rel=0.02)


# --- the others, against closed forms and other libraries


def test_quantization_rounds_to_multiples(natural):
    out = tid.quantization(natural, 19, stream())
    assert set(np.unique(out % 19)) <= {0, 255 % 19}
    below = natural < 247
    assert np.abs(out.astype(int) - natural)[below].max() <= 9


@pytest.mark.parametrize("sigma", KIND[8].strengths)
def test_blur_is_scipys_with_black_around(sigma, natural):
    expected = ndimage.gaussian_filter(natural.astype(float), (sigma, sigma, 0), mode="constant", radius=(5, 5, 0))
    assert np.abs(tid.gaussian_blur(natural, sigma, stream()).astype(float) - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("quality", [80, 60, 40])
def test_jpeg_is_pillows_where_no_step_exceeds_255(quality, natural):
    stored = io.BytesIO()
    Image.fromarray(natural).save(stored, "JPEG", quality=quality, subsampling="4:2:0")
    assert (tid.jpeg(natural, quality, stream()) == np.asarray(Image.open(stored))).all()


def test_jpeg_is_not_pillows_where_a_step_exceeds_255_and_nothing_is_printed(capfd):
    hard = 255 * stream().randint(0, 2, (96, 96, 1), np.uint8).repeat(3, axis=2)
    stored = io.BytesIO()
    Image.fromarray(hard).save(stored, "JPEG", quality=4, subsampling="4:2:0")
    assert (tid.jpeg(hard, 4, stream()) != np.asarray(Image.open(stored))).any()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shift", KIND[16].strengths)
def test_mean_shift_is_exact(shift, natural):
    expected = np.clip(natural.astype(int) + int(shift), 0, 255)
    assert (tid.mean_shift(natural, shift, stream()) == expected).all()


@pytest.mark.parametrize("factor", [0.5, 0.9])
def test_less_contrast_is_a_line_through_the_mean_of_everything(factor, natural):
    out = tid.contrast(natural, factor, stream()).astype(float)
    slope, start = np.polyfit(natural.ravel(), out.ravel(), 1)
    assert slope == pytest.approx(factor, abs=1e-3)  # rounding is no line
    assert start == pytest.approx((1 - factor) * natural.mean(), abs=0.5)


def test_saturation_scales_chroma_and_leaves_luminance(natural):
    before, after = rgb2ycbcr(natural), rgb2ycbcr(tid.saturation(natural, 0.5, stream()))
    assert (np.rint(before[..., 0]) == np.rint(after[..., 0])).all()
    # rounding R, G and B moves Cb and Cr by at most half of 112 · 2/255
    assert np.abs((after[..., 1:] - 128) - 0.5 * (before[..., 1:] - 128)).max() <= 112 / 255 + 1e-9
    grey = rgb2ycbcr(tid.saturation(natural, 1, stream()))[..., 1:]
    assert np.abs(grey - 128).max() < 1


def test_a_palette_has_so_many_colours(natural):
    for colors in (2, 7, 64):
        assert len(np.unique(tid.palette(natural, colors, stream()).reshape(-1, 3), axis=0)) <= colors


def test_aberration_moves_red_right_and_blue_left(natural):
    out = tid.aberration(natural, 1, stream())
    assert (out[:, 1:, 0] == natural[:, :-1, 0]).all()
    assert (out[..., 1] == natural[..., 1]).all()
    assert (out[:, :-1, 2] == natural[:, 1:, 2]).all()
    half = tid.aberration(natural, 0.5, stream()).astype(float)
    assert np.abs(half[:, 1:, 0] - (natural[:, 1:, 0] + natural[:, :-1, 0].astype(float)) / 2).max() <= 0.5
