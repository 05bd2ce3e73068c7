"""The data set TID2013 reconstructed: its folder and labels, and its images against the PSNR that TID2013 publishes."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2ycbcr

from iqarena.bench.datasets.tid2013_reconstructed import distortions as tid
from iqarena.bench.datasets.tid2013_reconstructed.dataset import CROPS, MERE_SHIFTS, TID2013Reconstructed
from iqarena.bench.datasets.tid2013_reconstructed.distortions import DISTORTIONS, Distortion, psnr
from iqarena.bench.errors import UserError

KIND = {distortion.number: distortion for distortion in DISTORTIONS}
LEVELS = range(1, 6)

PUBLISHED = {
    "I01": {
        7: (33.2890, 30.2663, 27.1280, 24.0697, 21.1297),
        8: (34.0126, 29.1857, 25.3369, 22.8195, 21.0833),
        10: (33.1252, 30.2636, 27.0572, 23.9254, 20.9001),
        16: (32.5710, 28.1308, 22.1303, 18.5884, 16.2709),
        17: (35.9478, 30.0055, 27.9776, 23.5081, 21.9609),
    },
    "I09": {
        7: (33.4333, 30.2648, 27.6563, 24.2813, 21.5936),
        8: (37.9858, 33.0602, 28.8365, 25.4784, 22.6469),
        10: (36.0411, 33.5857, 30.2402, 26.1885, 23.3516),
        16: (32.5782, 28.1376, 22.1244, 18.6072, 16.1669),
        17: (34.4199, 28.5809, 26.4609, 22.0508, 20.4435),
    },
    "I20": {
        7: (32.1310, 28.7884, 28.5765, 26.0135, 20.9502),
        8: (36.6340, 31.7423, 27.6999, 24.6352, 21.9667),
        10: (36.3387, 33.8993, 30.5077, 26.6430, 23.6716),
        16: (32.5757, 29.9392, 22.2025, 20.8561, 16.3795),
        17: (29.3699, 25.8373, 21.2988, 20.6019, 15.2795),
    },
}
"""PSNR in dB of levels 1 to 5, from metrics_values/PSNRc.txt of TID2013 1.0, of types without randomness."""

PUBLISHED_STEP_39 = {
    "I01": 27.1280,
    "I02": 26.7293,
    "I03": 27.0252,
    "I04": 27.2999,
    "I05": 27.0947,
    "I06": 27.3488,
    "I07": 27.0696,
    "I08": 27.1400,
    "I09": 27.6563,
    "I10": 27.2874,
    "I11": 26.9569,
    "I12": 26.9876,
    "I13": 27.2835,
    "I14": 27.1822,
    "I15": 27.7367,
    "I16": 27.1463,
    "I17": 26.5922,
    "I18": 26.7572,
    "I19": 27.3058,
    "I20": 28.5765,
    "I21": 27.6002,
    "I22": 27.5087,
    "I23": 27.3173,
    "I24": 26.7974,
}
"""PSNR in dB of quantization, level 3, for every reference: a crop that is one pixel off differs by 0.0002 dB or more."""

PUBLISHED_NOISE = {
    1: (33.0720, 30.0728, 26.9909, 24.0038, 20.9959),
    2: (33.2620, 30.2338, 27.1835, 24.1701, 21.1626),
    3: (33.0677, 30.0688, 27.0278, 24.0114, 20.9991),
    5: (33.0026, 30.0004, 24.9992, 19.9925, 15.0450),
    6: (33.0161, 29.8317, 26.9008, 23.8686, 20.8657),
}
"""PSNR in dB of levels 1 to 5 for I09 and the random types, whose draws are not published."""


def stream(seed=0):
    return np.random.RandomState(seed)


def one_line(error):
    """Return the message of an error, which has one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


# --- labels and files, on a folder without the real images


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
    assert "kodim01.png" in one_line(error)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_what_is_missing_or_wrong_is_one_line(layout, change, message):
    change(layout)
    with pytest.raises(UserError) as error:
        TID2013Reconstructed.open(layout)
    text = one_line(error)
    assert message in text
    assert str(layout) in text


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
    assert "kodim01.png" in one_line(error)


# --- the real images


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
    values = [psnr(KIND[number].apply(crop, level, "a"), crop) for level in LEVELS]
    assert values == pytest.approx(PUBLISHED[reference_id][number], abs=0.00006)  # four decimals are published


@pytest.mark.parametrize("number", sorted(PUBLISHED_NOISE))
def test_noise_is_as_strong_as_in_those_that_were_rated(data, number):
    crop = data.reference("I09")
    values = [psnr(KIND[number].apply(crop, level, f"a{level}"), crop) for level in LEVELS]
    # two draws of 590,000 samples differ by 0.01 dB, averaged ones by 0.05; of level 1's 2,400 impulses by 0.15
    assert values == pytest.approx(PUBLISHED_NOISE[number], abs={6: 0.4, 2: 0.15}.get(number, 0.1))


@pytest.mark.parametrize(
    ("image_id", "published"), [("i01_06_3", 31.8042), ("i08_06_1", 36.8161), ("i08_06_3", 28.8690), ("i20_06_5", 20.2430)]
)
def test_impulses_have_the_luminance_of_those_that_were_rated(data, image_id, published):
    index = next(i for i, sample in enumerate(data.samples) if sample.image_id == image_id)
    one, other = (
        np.rint(rgb2ycbcr(image)[..., 0]) for image in (data.reconstruct(index), data.reference(f"I{image_id[1:3]}"))
    )
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
    assert (first.permute(1, 2, 0).numpy() == data.reconstruct(index)).all()
    monkeypatch.setattr(Distortion, "apply", None)
    assert (data.image(index) == first).all()
    Image.new("RGB", (5, 5)).save(data.folder / "i03_18_2.png")
    with pytest.raises(UserError, match="delete it to have it made anew") as error:
        data.image(index)
    one_line(error)


def test_a_cache_that_cannot_be_written_to_is_one_line(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IQARENA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="IQARENA_CACHE") as error:
        data.image(0)
    one_line(error)
