"""Readers on the true label files of published data sets: counts, values and directions of the labels.

The files are no part of this project: ``IQARENA_DATA`` names a folder with ``labels/`` in it, one CSV a data set in the form
of the IQA-Dataset project, and three official files.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from iqarena.bench.datasets.verify import verify
from iqarena.bench.errors import UserError
from tests.support.published_layouts import READERS

FILES = {
    "live": "LIVE", "csiq": "CSIQ", "tid2013": "TID2013", "kadid10k": "KADID-10k", "koniq10k": "KonIQ-10k",
    "clive": "LIVE_Challenge", "vclfer": "VCLFER", "spaq": "SPAQ", "cid2013": "CID2013", "pipal": "PIPAL",
}  # fmt: skip
# images, references, and the first image with its reference and published score
FACTS = {
    "live": (779, 29, "jp2k/img2.bmp", "studentsculpture", 15.512954417537026),
    "csiq": (866, 30, "AWGN/1600.AWGN.1.png", "1600", 0.061989),
    "tid2013": (3000, 25, "i01_01_1.bmp", "i01", 5.5143),
    "kadid10k": (10_125, 81, "I01_01_01.png", "I01", 4.57),
    "koniq10k": (10_073, 10_073, "10004473376.jpg", "10004473376.jpg", 3.82857142857143),
    "clive": (1161, 1161, "101.bmp", "101.bmp", 66.3595),
    "vclfer": (552, 23, "IMG_01_AWGN_1.bmp", "IMG_01", 71.7215),
    "spaq": (11_125, 11_125, "00001.jpg", "00001.jpg", 48.86),
    "cid2013": (474, 36, "IS1/co1/IS_I_C01_D01.jpg", "IS1/co1", 3.34364303351907),
    "pipal": (23_200, 200, "A0001_00_00.bmp", "A0001", 1520.0648),
}


@pytest.fixture
def opened(data_root, tmp_path):
    """Open a data set from its label file alone; images are not needed to read labels."""

    def open_(name, file="", as_="labels.txt"):
        source = data_root / "labels" / (file or f"{FILES[name]}.txt")
        if not source.is_file():
            pytest.skip(f"no {source.name} in {source.parent}")
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copyfile(source, tmp_path / name / as_)
        return READERS[name](tmp_path / name)

    return open_


@pytest.mark.parametrize("name", FACTS)
def test_counts_and_values_are_true(opened, name):
    data = opened(name)
    images, references, image, reference, raw = FACTS[name]
    assert len(data) == images
    assert len({s.reference_id for s in data.samples}) == references
    assert (data.samples[0].image_id, data.samples[0].reference_id, data.samples[0].raw) == (image, reference, raw)
    labels = np.array([s.mos for s in data.samples])
    assert ((labels >= 0) & (labels <= 1)).all()
    rho = stats.spearmanr(labels, [s.raw for s in data.samples]).statistic
    assert rho == pytest.approx(1 if data.higher_is_better else -1)


LEVEL = {
    "csiq": r".*/(?P<reference>.+)\.(?P<kind>AWGN|BLUR|JPEG|jpeg2000|fnoise)\.(?P<level>\d)\.png",
    "tid2013": r"(?P<reference>i\d\d)_(?P<kind>0[1-9]|1[0-3])_(?P<level>\d)\.bmp",
    "kadid10k": r"(?P<reference>I\d\d)_(?P<kind>0[1-3]|09|1[0-4])_0(?P<level>\d)\.png",
    "vclfer": r"(?P<reference>IMG_\d\d)_(?P<kind>AWGN|BLU|J2K|JPG)_(?P<level>\d)\..*",
}


@pytest.mark.parametrize("name", LEVEL)
def test_labels_fall_as_blur_noise_and_compression_grow(opened, name):
    # this would fail if a direction were wrong, whatever the label is called; VCL@FER's raters now and then preferred
    # the second level of blur, hence the mean over references
    by_kind = {}
    for sample in opened(name).samples:
        if match := re.fullmatch(LEVEL[name], sample.image_id):
            by_kind.setdefault(match["kind"], {}).setdefault(int(match["level"]), []).append(sample.mos)
    assert len(by_kind) >= 4
    for kind, levels in by_kind.items():
        means = [np.mean(levels[level]) for level in sorted(levels)]
        assert len(means) in (5, 6)
        assert means[0] - means[-1] > 0.1, kind
        assert (np.diff(means) < 0).all(), (kind, means)


def test_the_workbook_of_csiq_has_the_samples_of_the_common_file(opened):
    pytest.importorskip("openpyxl")
    common = opened("csiq")
    book = opened("csiq", "csiq.beta.xlsx", "csiq.beta.xlsx")
    assert book.label_file.name == "csiq.beta.xlsx"
    assert {(s.image_id, s.reference_id) for s in book.samples} == {(s.image_id, s.reference_id) for s in common.samples}
    values = {s.image_id: s.mos for s in common.samples}
    # the common file has five digits
    assert [s.mos for s in book.samples] == pytest.approx([values[s.image_id] for s in book.samples], abs=1e-5)


def test_the_own_file_of_tid2013_has_the_samples_of_the_common_file(opened):
    common = opened("tid2013")
    own = opened("tid2013", "tid2013_mos_with_names.txt", "mos_with_names.txt")
    assert [(s.image_id, s.reference_id) for s in own.samples] == [(s.image_id, s.reference_id) for s in common.samples]
    # four digits against five
    assert [s.raw for s in own.samples] == pytest.approx([s.raw for s in common.samples], abs=5.1e-5)


def test_the_file_of_koniq_with_the_official_split_has_the_images_and_nearly_the_order_of_the_common_file(opened):
    common = opened("koniq10k")
    own = opened("koniq10k", "koniq10k_distributions_sets.csv", "koniq10k_distributions_sets.csv")
    assert Counter(own.split()) == {"training": 7058, "test": 2015, "validation": 1000}
    assert own.raw_range == (0, 100)
    values = {s.image_id: s.mos for s in common.samples}
    assert set(values) == {s.image_id for s in own.samples}
    # the second scale weighs raters: the authors' papers put the two at 0.99 or so
    assert stats.spearmanr([s.mos for s in own.samples], [values[s.image_id] for s in own.samples]).statistic > 0.98


def test_a_file_in_the_official_form_of_kadid_has_the_samples_of_the_common_file(opened, tmp_path):
    common = opened("kadid10k")
    rows = [f"{s.image_id},{s.reference_id}.png,{s.raw},0.5" for s in common.samples]
    (tmp_path / "kadid10k" / "dmos.csv").write_text("\n".join(["dist_img,ref_img,dmos,var", *rows]) + "\n")
    official = READERS["kadid10k"](tmp_path / "kadid10k")
    assert official.label_file.name == "dmos.csv"
    assert official.samples == common.samples


def test_the_label_file_of_another_data_set_is_refused(opened):
    with pytest.raises(UserError, match="TID2013 has 3,000"):
        opened("tid2013", "KADID-10k.txt")


def test_without_images_everything_is_missing(opened, tmp_path):
    opened("live")
    images, problems = verify("live", tmp_path / "live")
    assert images == len(problems) == 779
    assert {problem.kind for problem in problems} == {"missing"}
