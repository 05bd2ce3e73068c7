"""The readers `folder` and `images`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.datasets.unlabelled import Images
from iqarena.bench.errors import UserError


def exit_on_user_error(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path):
    """A folder data set of two images."""
    rng = np.random.RandomState(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.randint(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("image,reference_id,mos\na.png,r1,0.25\nb.png,007,1\n")
    return tmp_path


def test_folder_reads_images_and_labels(folder):
    data = open_dataset("folder", folder)
    assert isinstance(data, Folder)
    assert [(s.image_id, s.reference_id, s.mos) for s in data.samples] == [("a.png", "r1", 0.25), ("b.png", "007", 1.0)]
    assert (data.image(1).permute(1, 2, 0).numpy() == np.asarray(Image.open(folder / "b.png"))).all()
    before = data.fingerprint
    (folder / "labels.csv").write_text("image,reference_id,mos\na.png,r1,0.26\nb.png,007,1\n")
    assert Folder(folder).fingerprint != before


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", "labels.csv"),
        ("image,reference_id\na.png,r\n", "lacks the column"),
        ("image,mos\na.png,0.5\n", "reference_id"),
        ("image,reference_id,mos\na.png,r,0.5\nb.png,r,1.5\n", "line 3: mos 1.5"),
        ("image,reference_id,mos\na.png,r,-0.1\n", "line 2"),
        ("image,reference_id,mos\na.png,r,good\n", "line 2: mos"),
        ("image,reference_id,mos\na.png,r,\n", "holds no label in mos"),
        ("image,reference_id,mos\na.png,r,0.5\nb.png,r,0.5,7,8\n", "labels.csv"),
        ("image,reference_id,mos\na.png,r,0.5\nb.png,r,0.4\na.png,r,0.5\n", "line 4: a.png has a label already"),
        ("image,reference_id,mos\n,r,0.5\n", "line 2"),
        ("image,reference_id,mos\na.png,,0.5\n", "line 2"),
        ("image,reference_id,mos\n", "labels.csv"),
        ("image,reference_id,mos,split\na.png,r,0.5,test\nb.png,s,0.5,val\n", "line 3: split val is none of training"),
        (b"\xff\xfe\x00image", "labels.csv"),
    ],
)
def test_a_broken_label_table_is_one_line_that_names_it(folder, table, expected):
    (folder / "labels.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(UserError) as error:
        Folder(folder)
    message = exit_on_user_error(error)
    assert "labels.csv" in message
    assert expected in message


def test_a_folder_without_a_table_and_a_root_that_is_none_are_one_line(tmp_path, folder):
    for root in (tmp_path / "nowhere", folder / "a.png"):
        with pytest.raises(UserError) as error:
            Folder(root)
        assert str(root) in exit_on_user_error(error)
    (tmp_path / "empty" / "labels.csv").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        Folder(tmp_path / "empty")
    assert "labels.csv" in exit_on_user_error(error)


# --- any column names


@pytest.fixture
def scores(folder):
    (folder / "scores.csv").write_text("filename,scene,MOS,set,2019\na.png,s1,5,training,0\nb.png,s2,1,test,40\n")
    return folder


def test_any_column_names_and_ranges_can_be_given(scores):
    data = open_dataset("folder[table=scores.csv,image=filename,reference=scene,mos=MOS,split=set,low=1,high=5]", scores)
    assert [(s.image_id, s.reference_id, s.mos, s.raw) for s in data.samples] == [
        ("a.png", "s1", 1.0, 5.0), ("b.png", "s2", 0.0, 1.0)
    ]  # fmt: skip
    assert data.split(3) == ["training", "test"]
    assert data.image(0).shape == (3, 20, 24)


def test_low_scores_can_be_good_a_column_may_be_called_2019_and_images_may_be_their_own_references(scores):
    spec = "folder[table=scores.csv,image=filename,reference=filename,mos=2019,high=80,higher_is_better=false]"
    data = open_dataset(spec, scores)
    assert [(s.reference_id, s.mos, s.raw) for s in data.samples] == [("a.png", 1.0, 0.0), ("b.png", 0.5, 40.0)]
    # the same file read in another way is another data set
    assert data.fingerprint != open_dataset(spec.replace("80", "90"), scores).fingerprint


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("table=none.csv", "none.csv: not found"),
        ("table=scores.csv", "lacks the column(s) image, mos, reference_id; it has filename, scene, MOS"),
        ("picture=filename", "no parameter 'picture'; it has table, image"),
        ("low=5,high=1", "low=5 must be below high=1"),
        ("low=x", "low: "),
        ("table=scores.csv,image=filename,reference=scene,mos=MOS,low=2,high=5", "line 3: MOS 1 is not in [2, 5]"),
    ],
)
def test_wrong_columns_are_one_line(scores, parameters, expected):
    with pytest.raises(UserError) as error:
        open_dataset(f"folder[{parameters}]", scores)
    assert expected in exit_on_user_error(error)


# --- images


def test_one_part_alone_can_be_taken(folder):
    with pytest.raises(UserError, match="lacks the column split"):
        open_dataset("folder[part=validation]", folder)
    (folder / "labels.csv").write_text("image,reference_id,mos,split\na.png,r1,0.25,training\nb.png,007,1,validation\n")
    whole, part = open_dataset("folder", folder), open_dataset("folder[part=validation]", folder)
    assert [sample.image_id for sample in part.samples] == ["b.png"]
    assert part.mos(0) == 1
    assert torch.equal(part.image(0), whole.image(1))
    assert part.fingerprint != whole.fingerprint
    for parameters, expected in (("part=test", "holds no image of the part test"), ("part=tests", "part: Input should be")):
        with pytest.raises(UserError, match=expected) as error:
            open_dataset(f"folder[{parameters}]", folder)
        exit_on_user_error(error)


def test_images_are_found_at_any_depth_without_labels_each_its_own_reference(folder):
    (folder / "more" / "still").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(folder / "more" / "still" / "C.JPG")
    (folder / ".hidden.png").write_bytes(b"")
    data = open_dataset("images", folder)
    assert isinstance(data, Images)
    assert data.label_kind == "none"
    assert [(s.image_id, s.reference_id) for s in data.samples] == [(n, n) for n in ("a.png", "b.png", "more/still/C.JPG")]
    assert all(math.isnan(s.mos) and math.isnan(s.raw) for s in data.samples)
    assert data.image(2).shape == (3, 8, 9)
    before = data.fingerprint
    (folder / "b.png").unlink()
    assert Images(folder).fingerprint != before


@pytest.mark.parametrize("empty", ["", "NA", "  ", "nan"])
def test_an_image_whose_label_is_left_empty_is_kept_without_one(folder, empty):
    (folder / "labels.csv").write_text(f"image,reference_id,mos\na.png,r1,{empty}\nb.png,007,1\n")
    first, second = Folder(folder).samples
    assert math.isnan(first.mos)
    assert math.isnan(first.raw)
    assert second.mos == 1.0


@pytest.mark.parametrize("labels", [("True", "False"), ("0.5", "True"), ("", "True"), ("0.5", "1,0"), ("0.5", "high")])
def test_true_and_false_and_words_are_no_labels(folder, labels):
    (folder / "labels.csv").write_text("image,reference_id,mos\na.png,r1,{}\nb.png,007,{}\n".format(*map(quoted, labels)))
    with pytest.raises(UserError) as error:
        Folder(folder)
    assert "is not a number" in exit_on_user_error(error)


def quoted(text):
    return f'"{text}"'


def test_a_part_without_any_label_says_so(folder):
    (folder / "labels.csv").write_text("image,reference_id,mos,split\na.png,r1,,test\nb.png,007,1,training\n")
    assert len(open_dataset("folder", folder)) == 2
    with pytest.raises(UserError, match="holds no label in mos"):
        open_dataset("folder[part=test]", folder)
