"""Readers of published data sets on small copies of their official layouts."""

from __future__ import annotations

import pickle
import shutil
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from iqarena.bench.datasets import LIVE, PIPAL, TID2013, KonIQ10k, open_dataset
from iqarena.bench.errors import UserError
from tests.support.published_layouts import EXPECTED, READERS, WORKBOOKS, WRITERS, kadid10k, workbook

SMALL = sorted(EXPECTED)


def exit_on_user_error(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def refusal(name, root):
    with pytest.raises(UserError) as error:
        open_dataset(name, root)
    return exit_on_user_error(error)


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """Write a data set's layout, in a folder with a space in its name, and make its reader expect three images."""

    def write(name):
        if name in WORKBOOKS:
            pytest.importorskip("openpyxl")
        root = tmp_path / f"old {name}"
        root.mkdir()
        WRITERS[name](root)
        if name in EXPECTED:
            monkeypatch.setattr(READERS[name], "count", len(EXPECTED[name]))
            monkeypatch.setattr(READERS[name], "common_count", None)
        return root

    return write


@pytest.mark.parametrize("name", SMALL)
def test_the_official_layout_is_read(layout, name):
    root = layout(name)
    data = open_dataset(name, root)
    rows = [(s.image_id, s.reference_id, s.mos, s.raw) for s in data.samples]
    assert [row[:2] for row in rows] == [row[:2] for row in EXPECTED[name]]
    np.testing.assert_allclose([row[2:] for row in rows], [row[2:] for row in EXPECTED[name]], rtol=0, atol=1e-12)
    assert data.label_kind == "MOS"
    for index in range(len(data)):
        assert data.image(index).shape == ((3, 768, 1024) if name == "koniq10k" else (3, 20, 24))
    assert pickle.loads(pickle.dumps(data)).samples == data.samples  # so that it can go to another process


@pytest.mark.parametrize("name", SMALL)
def test_the_folder_around_a_data_set_does_as_a_root_too(layout, name):
    root = layout(name)
    inside, around = open_dataset(name, root), open_dataset(name, root.parent)
    assert inside.samples == around.samples
    assert inside.fingerprint == around.fingerprint
    assert inside.file(0).samefile(around.file(0))


@pytest.mark.parametrize("name", SMALL)
def test_the_case_of_names_on_disk_does_not_matter(layout, name):
    root = layout(name)
    before = open_dataset(name, root).samples
    for path in sorted(root.rglob("*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.swapcase()))
    data = open_dataset(name, root)
    assert data.samples == before
    assert data.image(2).shape[0] == 3


def test_live_goes_through_its_folders_in_order_and_leaves_copies_of_references_out(layout):
    data = open_dataset("live", root := layout("live"))
    assert isinstance(data, LIVE)
    assert len(data) == 779
    scores, originals = np.linspace(-2, 111, 982), np.zeros(982, bool)
    originals[::4][:203] = True
    assert [s.raw for s in data.samples] == pytest.approx(scores[~originals])
    assert data.samples[0].image_id == "jp2k/img2.bmp"
    assert data.samples[0].reference_id == "scene1"
    assert data.samples[-1].image_id == "fastfading/img174.bmp"
    assert data.samples[-1].mos == pytest.approx(1 / 115)
    assert data.samples[0].mos > data.samples[-1].mos  # a difference to the reference: low is good
    assert data.image(0).shape == (3, 6, 8)
    before = data.fingerprint
    (root / "dmos_realigned.mat").unlink()
    older = LIVE(root)
    assert [s.raw for s in older.samples] == pytest.approx(scores[::-1][~originals])
    assert older.fingerprint != before


def test_koniq_has_an_official_split_two_scales_and_two_sizes(layout):
    root = layout("koniq10k")
    data = open_dataset("koniq10k", root)
    assert data.split(0) == data.split(5) == ["training", "validation", "test"]
    for path in (root / "1024x768").iterdir():
        path.unlink()
    (root / "1024x768").rmdir()
    assert open_dataset("koniq10k", root).image(0).shape == (3, 384, 512)
    (root / "koniq10k_distributions_sets.csv").unlink()
    rows = "10004473376.jpg,0,0,0,0,0,9,3.0,0.5,60\n9996001596.jpg,0,0,0,0,0,9,1,0.5,1\n7.jpg,0,0,0,0,0,9,5,0.5,100\n"
    (root / "koniq10k_scores_and_distributions.csv").write_text(
        f"image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore\n{rows}"
    )
    other = open_dataset("koniq10k", root)
    assert [s.mos for s in other.samples] == [0.5, 0.0, 1.0]
    assert other.raw_range == (1, 5)
    assert KonIQ10k.raw_range == (1, 5)
    assert other.official is None
    assert other.fingerprint != data.fingerprint


def test_koniq_in_a_folder_whose_name_says_no_size_has_images_of_any(layout):
    root = layout("koniq10k")
    (root / "1024x768").rename(root / "koniq_extracted")
    (root / "koniq10k_distributions_sets.csv").rename(root / "koniq_extracted" / "koniq10k_distributions_sets.csv")
    shutil.rmtree(root / "512x384")
    data = open_dataset("koniq10k", root)
    assert data.image(0).shape == (3, 768, 1024)
    assert data.expected_size() is None


def test_pipal_may_lie_in_one_folder(layout):
    root = layout("pipal")
    (root / "Train_Dist").mkdir()
    for path in root.glob("Distortion_*/*"):
        path.rename(root / "Train_Dist" / path.name)
    for path in root.glob("Distortion_*"):
        path.rmdir()
    assert isinstance(open_dataset("pipal", root), PIPAL)


@pytest.mark.parametrize("name", ["kadid10k", "tid2013", "koniq10k", "pipal"])
@pytest.mark.parametrize("file", ["labels.txt", "labels.csv"])
def test_without_its_official_file_a_common_one_gives_the_same_samples(layout, name, file):
    root = layout(name)
    official = open_dataset(name, root)
    rows = [
        {"dis_img_path": f"{name}/{READERS[name].folders[0][0]}/{s.image_id}", "dis_type": "x",
         "ref_img_path": f"{name}/refs/{s.reference_id}.png", "score": s.raw}
        for s in official.samples
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    if name == "koniq10k":  # the common file has the scores from 1 to 5, and no references
        table["score"] = [1 + 4 * s.mos for s in official.samples]
        table = table.drop(columns="ref_img_path")
    table.to_csv(root / file, index=False)
    for path in [*root.glob("*.csv"), *root.glob("*.txt"), *root.glob("Train_Label/*")]:
        if path.name != file:
            path.unlink()
    common = open_dataset(name, root)
    assert [(s.image_id, s.reference_id) for s in common.samples] == [(s.image_id, s.reference_id) for s in official.samples]
    assert [s.mos for s in common.samples] == pytest.approx([s.mos for s in official.samples])


# --- what is wrong


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_root_without_the_label_file_is_one_line_that_says_what_is_looked_for(tmp_path, name):
    (tmp_path / "file").write_text("x")
    assert "no such folder" in refusal(name, tmp_path / "nowhere")
    assert "not a folder" in refusal(name, tmp_path / "file")
    message = refusal(name, tmp_path)
    assert READERS[name].label_files[0].paths[0] in message
    assert "--root" in message


def test_of_two_copies_below_the_root_none_is_taken(layout, tmp_path):
    root = layout("kadid10k")
    (root.parent / "copy").mkdir()
    kadid10k(root.parent / "copy")
    message = refusal("kadid10k", tmp_path)
    assert "copy/dmos.csv and old kadid10k/dmos.csv" in message


@pytest.mark.parametrize("name", SMALL)
def test_half_an_archive_is_one_line_with_a_count_and_what_lists_them(layout, name):
    root = layout(name)
    missing = [open_dataset(name, root).file(index) for index in (1, 2)]
    for path in missing:
        path.unlink()
    message = refusal(name, root)
    assert "2 of the 3 images" in message
    assert missing[0].name.lower() in message.lower()
    assert f"iqarena data verify {name}" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("dist_img,ref_img,score\nI01_01_01.png,I01.png,4\n", "lacks the column(s) dmos (it has dist_img, ref_img, score)"),
        ("dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4,0\n", "holds 1 labels, KADID-10k has 3"),
        (
            "dist_img,ref_img,dmos,var\n" + "I01_01_01.png,I01.png,4,0\n" * 3,
            "I01_01_01.png has more than one label (and 1 more",
        ),
        (
            "dist_img,ref_img,dmos,var\na.png,I.png,4,0\nb.png,I.png,7,0\nc.png,I.png,4,0\n",
            "b.png: score 7 is not in [1, 5]",
        ),
        ("dist_img,ref_img,dmos,var\na.png,I.png,4,0\nb.png,I.png,bad,0\nc.png,I.png,4,0\n", "b.png: score bad is not in"),
        ("dist_img,ref_img,dmos,var\na.png,I.png,4,0\nb.png,I.png,,0\nc.png,I.png,4,0\n", "b.png: score nan"),
        ("dist_img,ref_img,dmos,var\na.png,I.png,4,0\n,I.png,4,0\nc.png,I.png,4,0\n", "label 2 names no image"),
        ("", "not a readable table"),
        (b"\xff\xfe\x00", "not a readable table"),
    ],
)
def test_a_label_file_that_is_wrong_is_one_line_that_names_it(layout, content, expected):
    root = layout("kadid10k")
    (root / "dmos.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal("kadid10k", root)
    assert str(root / "dmos.csv") in message
    assert expected in message


def test_an_unknown_split_is_told(layout):
    root = layout("koniq10k")
    file = root / "koniq10k_distributions_sets.csv"
    file.write_text(file.read_text().replace("validation", "holdout"))
    assert "9996001596.jpg: split holdout is none of" in refusal("koniq10k", root)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("dmos_realigned.mat", b"no matlab", "not a readable .mat file"),
        ("dmos_realigned.mat", b"", "not a readable .mat file"),
        ("dmos_realigned.mat", {"dmos": np.zeros((1, 982))}, "holds no dmos_new: is it of another release?"),
        ("dmos_realigned.mat", {"dmos_new": np.zeros((1, 460)), "orgs": np.zeros((1, 460))}, "holds 460 values, not 982"),
        ("refnames_all.mat", None, "no refnames_all.mat, which LIVE needs too"),
    ],
)
def test_a_matlab_file_that_is_wrong_is_one_line_that_names_it(tmp_path, file, content, expected):
    savemat(tmp_path / "dmos_realigned.mat", {"dmos_new": np.zeros((1, 982)), "orgs": np.zeros((1, 982))})
    savemat(tmp_path / "refnames_all.mat", {"refnames_all": np.array([["a.bmp"] * 982], dtype=object)})
    if content is None:
        (tmp_path / file).unlink()
    elif isinstance(content, bytes):
        (tmp_path / file).write_bytes(content)
    else:
        savemat(tmp_path / file, content)
    message = refusal("live", tmp_path)
    assert file in message
    assert expected in message


@pytest.mark.parametrize("name", sorted(WORKBOOKS))
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", None])
def test_a_workbook_that_is_broken_or_another_is_one_line(layout, name, content):
    root = layout(name)
    file = READERS[name](root).label_file
    if content is None:
        workbook(file, {"Sheet1": [["a", "b"], [1, 2]]})
    else:
        file.write_bytes(content)
    assert str(file) in refusal(name, root)


def test_without_what_reads_workbooks_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "csiq.DMOS.xlsx", "w") as book:
        book.writestr("xl/workbook.xml", "")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    message = refusal("csiq", tmp_path)
    assert "pip install 'iqarena[data]'" in message
    assert "labels.csv" in message


def test_names_that_differ_from_the_labels_in_more_than_case_are_missing(layout):
    root = layout("tid2013")
    (root / "distorted_images" / "I25_24_5.bmp").rename(root / "distorted_images" / "I25_24_05.bmp")
    assert "the first is i25_24_5.bmp" in refusal("tid2013", root)
    assert TID2013(root).file(2).name == "i25_24_5.bmp"


def test_a_mix_of_sizes_is_never_read_from_two_folders(layout):
    root = layout("koniq10k")
    (root / "1024x768" / "7.jpg").unlink()  # the other folder has it, in another size
    assert "1 of the 3 images" in refusal("koniq10k", root)
