"""Tables and image files that are damaged, or of other systems: what is certain is read, all else is one line."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import read_image
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.datasets.tree import path_below
from iqarena.bench.datasets.unlabelled import Images
from iqarena.bench.errors import UserError
from tests.support.fuzz import FUZZ, ODD, refusal

HEAD = "image,reference_id,mos\n"


def pixels(height=20, width=24):
    return np.random.RandomState(height).randint(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A folder with two images, one in a folder of its own and one with an umlaut, and no table yet."""
    for name in ("sub/a.png", "ü.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels()).save(tmp_path / name)
    return tmp_path


# --- tables


@FUZZ
@given(
    st.lists(st.lists(st.sampled_from(ODD) | st.text(max_size=8), max_size=5), max_size=4),
    st.sampled_from([",", ";", "\t", ", "]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.binary(max_size=12),
)
@example([["sub/a.png", "r", "0.5"]], ",", "\n", b'"')
@example([["a" * 300 + ".png", "r", "0.5"]], ",", "\n", b"")
@example([["\0.png", "r", "0.5"]], ",", "\n", b"")
@example([['"a\nb"', "r", "0.5"]], ",", "\n", b"")
def test_a_table_is_read_or_refused_in_one_line(folder, rows, separator, end, raw):
    lines = [HEAD.strip().replace(",", separator), *(separator.join(row) for row in rows)]
    (folder / "labels.csv").write_bytes(end.join(lines).encode("utf-8", "replace") + end.encode() + raw)

    def read():
        data = Folder(folder)
        for index in range(len(data)):
            assert data.file(index).is_relative_to(folder)
            data.image(index)

    refused = refusal(read, UserError)
    assert refused == "" or str(folder) in refused


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "sub/a.png,r,0.1,\nü.png,s,0.5,\n",
        "image,reference_id,mos,,\nsub/a.png,r,0.1,,\nü.png,s,0.5,,\n,,,,\n",
        HEAD + "sub\\a.png,r,0.1\nü.png,s,0.5\n",
        HEAD + "./sub/a.png,r,0.1\nu\u0308.png,s,0.5\n",
        HEAD + "sub/a.png , r, 0.1\n ü.png , s, 0.5 \n",
        HEAD.replace(",", " , ") + "sub/a.png,r,0.1\nü.png,s,0.5\n",
        HEAD.replace(",", ";") + "sub/a.png;r;0,1\nü.png;s;0,5\n",
        HEAD.replace(",", "\t") + "sub/a.png\tr\t0.1\nü.png\ts\t0.5\n",
        (HEAD + "sub/a.png,r,0.1\nü.png,s,0.5\n").replace("\n", "\r"),
        (HEAD + "sub/a.png,r,0.1\r\nü.png,s,0.5\r\n").encode("utf-16"),
        (HEAD + 'sub/a.png, "r",0.1\n\nü.png,s,0.5\n').encode("utf-8-sig"),
    ],
)
def test_tables_of_other_systems_are_read_as_they_are_meant(folder, text):
    (folder / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    data = Folder(folder)
    assert [(s.image_id, s.reference_id, s.mos) for s in data.samples] == [("sub/a.png", "r", 0.1), ("ü.png", "s", 0.5)]
    assert [data.image(index).shape for index in range(2)] == [(3, 20, 24)] * 2


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("sub/a.png,r,0.1,x", "line 2: has 4 cells, and the heading 3"),
        ("r0,sub/a.png,r,0.1", "line 2: has 4 cells, and the heading 3"),
        ("../a.png,r,0.1", "line 2: ../a.png leads out of the folder"),
        ("sub/../../a.png,r,0.1", "leads out of the folder"),
        ("..\\a.png,r,0.1", "leads out of the folder"),
        ("/etc/a.png,r,0.1", "leads out of the folder"),
        ("C:\\a.png,r,0.1", "leads out of the folder"),
        ('"a\rb.png",r,0.1', "a?b.png has a line break or another control character"),
        ('"a\nb.png",r,0.1', "has a line break"),
        ("sub/a.png,r,0.1\nsub\\a.png,s,0.2", "line 3: sub/a.png has a label already"),
        ("sub/a.png,r,0.1\nsub/x/../a.png,s,0.2", "line 3: sub/a.png has a label already"),
        ('"sub/a.png,r,0.1', "not a readable table"),
        (f"{'a' * 300}.png,r,0.1", "is longer than any name"),
    ],
)
def test_a_table_that_means_nothing_certain_is_one_line(folder, row, expected):
    (folder / "labels.csv").write_bytes((HEAD + row + "\n").encode())
    assert expected in refusal(lambda: Folder(folder), UserError)


def test_a_workbook_is_a_table_too(folder):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    table = pd.DataFrame({"image": ["sub/a.png", "ü.png"], "reference_id": ["007", "s"], "mos": [0.1, 0.5]})
    table.to_excel(folder / "labels.xlsx", index=False)
    data = open_dataset("folder[table=labels.xlsx]", folder)
    assert [(s.image_id, s.reference_id, s.mos) for s in data.samples] == [("sub/a.png", "007", 0.1), ("ü.png", "s", 0.5)]


@pytest.mark.parametrize("column", ["2019", "true", "yes", "007", "null", "2019.10", "1_000", "0x10", "nan", "'a b'"])
def test_a_column_may_be_called_as_yaml_calls_a_number_or_a_truth(folder, column):
    (folder / "labels.csv").write_text(f"{column.strip(chr(39))},reference_id,mos\nsub/a.png,r,0.1\n")
    assert open_dataset(f"folder[image={column}, low = 0,higher_is_better=False]", folder).samples[0].mos == 0.9


@pytest.mark.parametrize("bound", ["high=inf", "high=.inf", "low=-inf", "high=nan", "low=1e999"])
def test_a_range_of_labels_is_finite(folder, bound):
    (folder / "labels.csv").write_text(HEAD + "sub/a.png,r,0.1\n")
    assert "number" in refusal(lambda: open_dataset(f"folder[{bound}]", folder), UserError)


@FUZZ
@given(
    st.text(max_size=20) | st.lists(st.sampled_from(["..", ".", "a", "", "C:", "~", "\\", "/"]), max_size=6).map("/".join)
)
def test_a_path_below_a_folder_stays_there(written):
    name = None
    if not refusal(lambda: path_below(written), ValueError):
        name = path_below(written)
        assert path_below(name) == name
    assert name is None or not (name.startswith(("/", "../")) or name in ("", ".", ".."))


def test_a_root_may_be_written_with_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder / "labels.csv").write_text(HEAD + "sub/a.png,r,0.1\n")
    assert len(open_dataset("folder", type(folder)("~") / folder.name)) == 1


# --- names of files


@pytest.mark.parametrize("name", [b"a\rb.png", b"a\nb.png", b"\xff.png"])
def test_a_name_that_no_table_can_have_is_refused_before_the_run(tmp_path, name):
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    os.link(tmp_path / "a.png", os.fsencode(tmp_path) + b"/" + name)
    assert "its name" in refusal(lambda: Images(tmp_path), UserError)
    (tmp_path / "other").mkdir()
    Image.fromarray(pixels()).save(tmp_path / "other" / "a.png")
    (tmp_path / "other" / "Icon\r").write_text("")
    assert len(Images(tmp_path / "other")) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    for name in ("a.png", "labels.csv"):
        os.mkfifo(tmp_path / name)
    assert "not a file" in refusal(lambda: read_image(tmp_path / "a.png"), UserError)
    assert "not a file" in refusal(lambda: Folder(tmp_path), UserError)


# --- image files


def png(rows, interlaced=False, height=20):
    """Return a PNG of `height` rows whose stream ends after some rows, or after some passes."""
    image = pixels(height)
    passes = [image]
    if interlaced:
        starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        passes = [image[top::down, left::right] for top, left, down, right in starts]
    lines = [b"\0" + line.tobytes() for part in passes for line in part if part.size]
    header = struct.pack(">IIBBBBB", 24, height, 8, 2, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines[:rows]))), (b"IEND", b"")]
    stored = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(stored), len(lines)


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_whose_stream_ends_early_is_refused(tmp_path, interlaced):
    whole, lines = png(None, interlaced)
    path = tmp_path / "a.png"
    path.write_bytes(whole)
    assert (read_image(path).permute(1, 2, 0).numpy() == pixels()).all()
    for rows in (1, lines // 2, lines - 1):
        path.write_bytes(png(rows, interlaced)[0])
        assert "ends before its last line" in refusal(lambda: read_image(path), UserError)
        assert "ends before its last line" in refusal(lambda: read_image(path, published=True), UserError)


@pytest.mark.parametrize("options", [{"quality": 90}, {"quality": 90, "progressive": True}, {"subsampling": 0}])
def test_a_jpeg_whose_stream_ends_early_is_refused_though_it_has_an_end(tmp_path, options):
    file, path = io.BytesIO(), tmp_path / "a.jpg"
    Image.fromarray(pixels(64)).save(file, "JPEG", **options)
    content = file.getvalue()
    for cut in (len(content) // 2, len(content) * 3 // 4):
        path.write_bytes(content[:cut] + b"\xff\xd9")
        assert "ends before its last line" in refusal(lambda: read_image(path), UserError)
    path.write_bytes(content)
    assert read_image(path).shape == (3, 64, 24)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("level", [0, 128])
def test_a_whole_image_that_is_black_or_grey_is_read(tmp_path, suffix, level):
    path = tmp_path / f"a.{suffix}"
    for options in [{}, {"progressive": True}] if suffix == "jpg" else [{}]:
        Image.fromarray(np.full((20, 24, 3), level, np.uint8)).save(path, **options)
        assert read_image(path).unique().tolist() == [level]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged tags of TIFF
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "gif", "ppm", "jp2"])
@FUZZ
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=4),
    cut=st.floats(0, 1) | st.none(),
    head=st.booleans(),
)
def test_a_damaged_image_file_is_read_or_refused_in_one_line(tmp_path, suffix, changes, cut, head):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[270], exif[282] = "about", 72.0
    Image.fromarray(pixels()).save(path, **({"exif": exif} if suffix in ("jpg", "tiff", "webp", "png") else {}))
    content = bytearray(path.read_bytes())
    for place, values in changes:  # half of the changes where the header is, or where TIFF has its tags
        start = int(place * min(len(content), 120)) if head else int(place * len(content))
        start = len(content) - start if head and suffix == "tiff" else start
        content[start : start + len(values)] = values
    path.write_bytes(content[: int(cut * len(content))] if cut is not None else content)
    refused = refusal(lambda: read_image(path), UserError)
    assert refused == "" or str(path) in refused
