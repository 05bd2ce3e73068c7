"""The packed form of a results folder: the same bytes back, read by everything as the folder form is, resumed on."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.content import content
from iqarena.bench.leaderboard.markdown import markdown
from iqarena.bench.results.packed import CellFiles, PackedCells
from iqarena.bench.results.store import Records
from tests.support.attack_runs import message
from tests.support.board_records import BAD, CLEAN, GOOD, WEAK, put


def everything(folder: Path) -> dict[str, bytes]:
    """All files of a results folder, but for its lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def filled(records: Records) -> Records:
    """Cells of two tracks and two rows; names with commas, quotes and line ends; missing numbers."""
    put(records, GOOD)
    put(records, WEAK, attack="fgsm", defense='a "quoted", name')
    put(records, BAD, eps=4 / 255, clean=np.where(np.arange(len(CLEAN)) == 3, np.nan, CLEAN))
    put(records, GOOD, norm="l2", eps=0.1, kept=True, attack="pgd-l2")
    records.rebuild_summary()
    return records


def test_unpacking_gives_the_same_bytes(filled: Records) -> None:
    before = everything(filled.folder)
    assert filled.pack() == 4
    packed = everything(filled.folder)
    assert not [name for name in packed if name.startswith("cells/")]
    assert sorted(name for name in packed if name.startswith("packed/")) == [
        "packed/images-demo-l2-0-1.csv.xz",
        "packed/images-demo-linf-2-255.csv.xz",
        "packed/images-demo-linf-4-255.csv.xz",
        "packed/records.json.xz",
    ]
    assert packed["summary.csv"] == before["summary.csv"]
    assert Records(filled.folder).unpack() == 4
    assert everything(filled.folder) == before


def test_a_line_end_or_a_comma_inside_quotes_stays_in_its_line(tmp_path: Path) -> None:
    header = b"image_id,reference_id,mos\n"
    rows = b'"a\nb, ""c""",r,0.5\nplain,r,\n"d\r",r,1\n'
    record = json.dumps({"cell_id": "0" * 16, "cell": {"dataset": "d", "norm": "linf", "eps": 0.1}}, indent=1).encode()
    PackedCells(tmp_path).write({"0" * 16: CellFiles(record + b"\n", header + rows)})
    (files,) = PackedCells(tmp_path).cells().values()
    assert files == (record + b"\n", header + rows)


def test_packed_cells_are_read_as_those_in_folders_are(filled: Records, tmp_path: Path) -> None:
    loose = {record["cell_id"]: (record, filled.images(record["cell_id"])) for record in filled.all()}
    board = markdown(filled, tmp_path, content(filled))
    filled.pack()
    again = Records(filled.folder)
    assert [record["cell_id"] for record in again.all()] == list(loose)
    for cell_id, (record, images) in loose.items():
        assert again.read(cell_id) == record
        pd.testing.assert_frame_equal(again.images(cell_id), images)
    assert markdown(again, tmp_path, content(again)) == board


def test_pandas_reads_the_table_of_a_track_and_json_the_records(filled: Records) -> None:
    filled.pack()
    table = pd.read_csv(filled.folder / "packed/images-demo-linf-2-255.csv.xz")
    assert list(table.columns[:2]) == ["cell_id", "image_id"]
    assert len(table) == 2 * len(CLEAN)
    records = json.loads(lzma.decompress((filled.folder / "packed/records.json.xz").read_bytes()))
    assert {record["cell_id"] for record in records} == {record["cell_id"] for record in filled.all()}


def test_packing_again_takes_in_what_was_run_since_and_a_newer_cell_wins(filled: Records) -> None:
    filled.pack()
    (old,) = [record for record in filled.all() if record["cell"]["eps"] == 4 / 255]
    put(filled, GOOD, attack="apgd")
    put(filled, WEAK, eps=4 / 255)  # the same cell with other numbers
    again = Records(filled.folder)
    newer = again.read(old["cell_id"])
    assert newer is not None
    assert newer["images_sha256"] != old["images_sha256"]
    assert again.pack() == 5
    assert not list(again.cells.iterdir())
    assert Records(filled.folder).read(old["cell_id"]) == newer


def test_the_same_cells_give_the_same_packed_bytes(filled: Records) -> None:
    filled.pack()
    first = everything(filled.folder)
    filled.unpack()
    filled.pack()
    assert everything(filled.folder) == first


def test_a_damaged_cell_stays_in_its_folder(filled: Records) -> None:
    spoilt = next(filled.cells.iterdir())
    (spoilt / "images.csv").write_text("image_id\n")
    assert filled.pack() == 3
    assert [folder.name for folder in filled.cells.iterdir()] == [spoilt.name]


def test_an_edited_packed_record_is_not_taken(filled: Records) -> None:
    filled.pack()
    path = filled.folder / "packed/records.json.xz"
    text = lzma.decompress(path.read_bytes())
    path.write_bytes(lzma.compress(text.replace(b'"n_images": 24', b'"n_images": 25', 1)))
    assert len(list(Records(filled.folder).all())) == 3


@pytest.mark.parametrize("content", [b"", b"\xfd7zXZ\x00", lzma.compress(b"[\n{}\n]\n"), lzma.compress(b"nonsense")])
def test_a_damaged_packed_file_is_one_clear_line(filled: Records, content: bytes) -> None:
    filled.pack()
    (filled.folder / "packed/records.json.xz").write_bytes(content)
    with pytest.raises(UserError) as error:
        list(Records(filled.folder).all())
    assert "records.json.xz" in message(error)
    assert "from where it came, or delete it" in message(error)


def test_a_folder_in_which_nothing_was_run_packs_to_nothing(records: Records) -> None:
    assert records.pack() == 0
    assert records.unpack() == 0
    assert io.StringIO((records.folder / "summary.csv").read_text()).readline().startswith("cell_id,")
