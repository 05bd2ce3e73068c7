"""TID2013 reconstructed: distortions against closed forms, images against what TID2013 publishes of its own."""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from skimage.color import rgb2ycbcr

from iqarena.bench.datasets.tid2013_reconstructed import distortions as tid
from iqarena.bench.datasets.tid2013_reconstructed.dataset import CROPS, MERE_SHIFTS, TID2013Reconstructed
from iqarena.bench.datasets.tid2013_reconstructed.distortions import DISTORTIONS, Distortion, psnr
from iqarena.bench.errors import UserError

BY_NAME = pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda d: d.name.replace(" ", "-"))
KIND = {distortion.number: distortion for distortion in DISTORTIONS}
RANDOM = {1, 2, 3, 5, 6, 19}
GREY = np.full((128, 128, 3), 128, np.uint8)
LEVELS = range(1, 6)

PUBLISHED = {
    "I01": {
        7: (33.2890, 30.2663, 27.1280, 24.0697, 21.1297), 8: (34.0126, 29.1857, 25.3369, 22.8195, 21.0833),
        10: (33.1252, 30.2636, 27.0572, 23.9254, 20.9001), 16: (32.5710, 28.1308, 22.1303, 18.5884, 16.2709),
        17: (35.9478, 30.0055, 27.9776, 23.5081, 21.9609),
    },
    "I09": {
        7: (33.4333, 30.2648, 27.6563, 24.2813, 21.5936), 8: (37.9858, 33.0602, 28.8365, 25.4784, 22.6469),
        10: (36.0411, 33.5857, 30.2402, 26.1885, 23.3516), 16: (32.5782, 28.1376, 22.1244, 18.6072, 16.1669),
        17: (34.4199, 28.5809, 26.4609, 22.0508, 20.4435),
    },
    "I20": {
        7: (32.1310, 28.7884, 28.5765, 26.0135, 20.9502), 8: (36.6340, 31.7423, 27.6999, 24.6352, 21.9667),
        10: (36.3387, 33.8993, 30.5077, 26.6430, 23.6716), 16: (32.5757, 29.9392, 22.2025, 20.8561, 16.3795),
        17: (29.3699, 25.8373, 21.2988, 20.6019, 15.2795),
    },
}  # fmt: skip
"""dB, levels 1 to 5, from metrics_values/PSNRc.txt of TID2013 1.0, of types that have nothing random in them."""

PUBLISHED_STEP_39 = {
    "I01": 27.1280, "I02": 26.7293, "I03": 27.0252, "I04": 27.2999, "I05": 27.0947, "I06": 27.3488, "I07": 27.0696,
    "I08": 27.1400, "I09": 27.6563, "I10": 27.2874, "I11": 26.9569, "I12": 26.9876, "I13": 27.2835, "I14": 27.1822,
    "I15": 27.7367, "I16": 27.1463, "I17": 26.5922, "I18": 26.7572, "I19": 27.3058, "I20": 28.5765, "I21": 27.6002,
    "I22": 27.5087, "I23": 27.3173, "I24": 26.7974,
}  # fmt: skip
"""The same of quantization, level 3, for every reference: the next pixel's crop is off by 0.0002 dB or more."""

PUBLISHED_NOISE = {
    1: (33.0720, 30.0728, 26.9909, 24.0038, 20.9959), 2: (33.2620, 30.2338, 27.1835, 24.1701, 21.1626),
    3: (33.0677, 30.0688, 27.0278, 24.0114, 20.9991), 5: (33.0026, 30.0004, 24.9992, 19.9925, 15.0450),
    6: (33.0161, 29.8317, 26.9008, 23.8686, 20.8657),
}  # fmt: skip
"""The same for I09 and types that are random, whose draws we do not have."""


def stream(seed=0):
    return np.random.RandomState(seed)


def exit_on_user_error(error):
    message = str(error.value)
    assert "\n" not in message
    return message


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
    found = [psnr(distortion.apply(natural, level, "a"), natural) for level in LEVELS]
    assert all(high > low for high, low in itertools.pairwise(found)), found


@BY_NAME
@pytest.mark.parametrize("value", [0, 255])
def test_a_flat_image_comes_back(distortion, value):
    assert distortion.apply(np.full((24, 20, 3), value, np.uint8), 5, "a").shape == (24, 20, 3)


@pytest.mark.parametrize(
    ("number", "strength", "off"),
    # 18 makes the luminance whole, which may move a sample by 0.5 · 255/219 and then to the next whole number
    [(1, 0, 0), (2, 0, 0), (3, 0, 0), (5, 0, 0), (6, 0, 0), (7, 1, 0), (8, 0.05, 0), (16, 0, 0), (17, 1, 0), (18, 0, 1),
     (19, 0, 0), (23, 0, 0)],
)  # fmt: skip
def test_no_strength_is_no_change(number, strength, off, natural):
    out = KIND[number].distort(natural, strength, stream())
    assert np.abs(out.astype(int) - natural).max() <= off


@pytest.mark.parametrize("number", [11, 18, 19, 22, 23])
def test_tuned_types_are_on_their_ladder(number, natural):
    distortion = KIND[number]
    for level, wanted in enumerate(distortion.ladder, 1):
        found = psnr(distortion.apply(natural, level, "a"), natural)
        # a number of colours is whole, and two, the least, may be too good; so few pixels make JPEG 2000's rates coarse
        assert found == pytest.approx(wanted, abs={22: 1.0, 11: 0.3}.get(number, 2 * tid.CLOSE))


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
    [(1, {(0, 1): 0, (1, 1): 0}), (3, {(0, 1): 6 / 9, (1, 1): 4 / 9, (0, 2): 3 / 9, (0, 3): 0}),
     (5, {(0, 1): -1 / 6, (1, 0): -1 / 6})],
)  # fmt: skip
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
    assert np.abs(np.corrcoef(out[hit].T) - np.eye(3)).max() < 0.1  # values of their own
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


# --- the data set, on a folder that only looks like it


@pytest.fixture
def layout(tmp_path):
    """A folder with Kodak's file names and as many labels as TID2013's, names in mixed case."""
    root = tmp_path / "my kodak"
    root.mkdir()
    for number in range(1, 25):
        Image.new("RGB", (768, 512)).save(root / f"kodim{number:02}.png")
    names = [f"{'I' if t == 1 else 'i'}{r:02}_{t:02}_{n}.bmp" for r in range(1, 26) for t in range(1, 25) for n in LEVELS]
    (root / "mos_with_names.txt").write_text("".join(f"{i % 10 * 0.9:.5f} {name}\r\n" for i, name in enumerate(names)))
    return root


def test_labels_are_read_for_what_is_made(layout):
    data = TID2013Reconstructed.open(layout)
    counts = Counter(data.kinds)
    assert counts == dict.fromkeys(KIND, 24 * 5) | {23: sum(MERE_SHIFTS.values())}
    assert len(data) == data.count == sum(counts.values()) == 1755
    assert data.samples[0].image_id == "i01_01_1"
    assert {sample.reference_id for sample in data.samples} == set(CROPS)
    assert data.samples[1].mos == pytest.approx(data.samples[1].raw / 9) == pytest.approx(0.1)
    facts = data.facts()
    assert "reconstructed" in facts["about"]
    assert facts["label_kind"] == "MOS (reconstructed)"
    split = {sample.reference_id: part for sample, part in zip(data.samples, data.split(3), strict=True)}
    assert Counter(split.values()) == {"training": 17, "test": 5, "validation": 2}
    assert pickle.loads(pickle.dumps(data)).samples == data.samples


def test_the_fingerprint_is_that_of_labels_and_not_of_the_place(layout, tmp_path):
    before = TID2013Reconstructed.open(layout).fingerprint
    (layout / "labels").mkdir()
    (layout / "mos_with_names.txt").rename(layout / "labels" / "tid2013_mos_with_names.txt")
    assert TID2013Reconstructed.open(layout).fingerprint == TID2013Reconstructed.open(tmp_path).fingerprint == before
    file = layout / "labels" / "tid2013_mos_with_names.txt"
    file.write_text(file.read_text().replace("0.00000 I01_01_1", "0.00001 I01_01_1"))
    assert TID2013Reconstructed.open(layout).fingerprint != before


def test_an_image_that_is_not_kodaks_is_one_line_and_nothing_is_written(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("IQARENA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="not the image of the Kodak suite") as error:
        TID2013Reconstructed.open(layout).image(0)
    assert "kodim01.png" in exit_on_user_error(error)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "kodim07.png").unlink(), "1 of Kodak's 24 images are missing, the first is kodim07.png"),
        (lambda root: (root / "mos_with_names.txt").unlink(), "no label file of TID2013"),
        (lambda root: cut(root, 1700), "holds 1,700 labels, TID2013 has 3,000: cut, or of another release?"),
        (lambda root: swap(root, "i03_02_1.bmp", "i03_02_2.bmp"), "named once"),
        (lambda root: swap(root, "i03_02_1.bmp", "i03_25_1.bmp"), "i03_25_1"),
        (lambda root: swap(root, "0.90000 I01_01_2", "9.5 I01_01_2"), "9.5 i01_01_2 is no score from 0 to 9"),
        (lambda root: swap(root, "0.90000 I01_01_2", "bad I01_01_2"), "bad i01_01_2"),
        (lambda root: (root / "mos_with_names.txt").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(layout, change, words):
    change(layout)
    with pytest.raises(UserError) as error:
        TID2013Reconstructed.open(layout)
    message = exit_on_user_error(error)
    assert words in message
    assert str(layout) in message


def cut(root, lines):
    file = root / "mos_with_names.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:lines]))


def swap(root, old, new):
    file = root / "mos_with_names.txt"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_without_a_root_the_line_says_what_to_give():
    with pytest.raises(UserError, match="--root") as error:
        TID2013Reconstructed.open(None)
    assert "kodim01.png" in exit_on_user_error(error)


# --- the data set itself


@pytest.fixture
def data(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("IQARENA_CACHE", str(tmp_path / "cache"))
    return TID2013Reconstructed.open(data_root)


def test_published_crops_are_where_they_were_found(data_root):
    known = json.loads((data_root / "labels" / "tid2013_kodak_crop_offsets.json").read_text())
    assert len(known) == 6
    assert {reference: CROPS[reference] for reference in known} == {r: (at["y"], at["x"]) for r, at in known.items()}


@pytest.mark.parametrize("reference_id", sorted(CROPS))
def test_every_crop_is_tid2013s(data, reference_id):
    crop = data.reference(reference_id)
    assert crop.shape == (384, 512, 3)
    assert psnr(tid.quantization(crop, 39, stream()), crop) == pytest.approx(PUBLISHED_STEP_39[reference_id], abs=0.00006)


@pytest.mark.parametrize("reference_id", sorted(PUBLISHED))
@pytest.mark.parametrize("number", [7, 8, 10, 16, 17])
def test_images_without_noise_have_the_psnr_of_those_that_were_rated(data, reference_id, number):
    crop = data.reference(reference_id)
    found = [psnr(KIND[number].apply(crop, level, "a"), crop) for level in LEVELS]
    assert found == pytest.approx(PUBLISHED[reference_id][number], abs=0.00006)  # four decimals are published


@pytest.mark.parametrize("number", sorted(PUBLISHED_NOISE))
def test_noise_is_as_strong_as_in_those_that_were_rated(data, number):
    crop = data.reference("I09")
    found = [psnr(KIND[number].apply(crop, level, f"a{level}"), crop) for level in LEVELS]
    # two draws of 590,000 samples differ by 0.01 dB, averaged ones by 0.05; of level 1's 2,400 impulses by 0.15
    assert found == pytest.approx(PUBLISHED_NOISE[number], abs={6: 0.4, 2: 0.15}.get(number, 0.1))


@pytest.mark.parametrize(
    ("image_id", "published"), [("i01_06_3", 31.8042), ("i08_06_1", 36.8161), ("i08_06_3", 28.8690), ("i20_06_5", 20.2430)]
)
def test_impulses_have_the_luminance_of_those_that_were_rated(data, image_id, published):
    index = next(i for i, sample in enumerate(data.samples) if sample.image_id == image_id)
    one, other = (np.rint(rgb2ycbcr(image)[..., 0]) for image in (data.made(index), data.reference(f"I{image_id[1:3]}")))
    # PSNR.txt; the other kind of impulses is 1 to 2.5 dB away
    assert 10 * math.log10(255**2 / ((one - other) ** 2).mean()) == pytest.approx(published, abs=0.4)


def test_labels_are_those_of_the_file(data):
    lines = dict(reversed(line.split()) for line in data.label_file.read_text().splitlines())
    raw = {name.lower().removesuffix(".bmp"): float(value) for name, value in lines.items()}
    assert all(sample.raw == raw[sample.image_id] for sample in data.samples)
    assert all(sample.mos == pytest.approx(sample.raw / 9) for sample in data.samples)
    assert data.samples[0].raw == 5.51429


def test_an_image_is_made_once(data, monkeypatch):
    index = next(i for i, sample in enumerate(data.samples) if sample.image_id == "i03_18_2")
    first = data.image(index)
    assert [path.name for path in data.folder.iterdir()] == ["i03_18_2.png"]
    assert (first.permute(1, 2, 0).numpy() == data.made(index)).all()
    monkeypatch.setattr(Distortion, "apply", None)
    assert (data.image(index) == first).all()
    Image.new("RGB", (5, 5)).save(data.folder / "i03_18_2.png")
    with pytest.raises(UserError, match="delete it to have it made anew") as error:
        data.image(index)
    exit_on_user_error(error)


def test_a_cache_that_cannot_be_written_to_is_one_line(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IQARENA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="IQARENA_CACHE") as error:
        data.image(0)
    exit_on_user_error(error)
