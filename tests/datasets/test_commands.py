"""Data sets on the command line: what is listed; a bad data set gives a clear line, exit code 2, and writes nothing."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from iqarena.bench.cli.app import main
from iqarena.bench.datasets import DATASETS
from iqarena.bench.datasets.tid2013_reconstructed.dataset import CROPS
from tests.datasets.test_image_files import spoil
from tests.support.published_layouts import READERS, image, kadid10k


@pytest.fixture
def iqarena(monkeypatch, capsys):
    """The command in this process: (exit code, stdout, stderr)."""

    def run(*args):
        monkeypatch.setattr("sys.argv", ["iqarena", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    monkeypatch.setenv("COLUMNS", "140")
    return run


@pytest.fixture
def kadid(tmp_path, monkeypatch):
    """KADID-10k's layout with three images."""
    monkeypatch.setattr(READERS["kadid10k"], "count", 3)
    (tmp_path / "kadid").mkdir()
    kadid10k(tmp_path / "kadid")
    return tmp_path / "kadid"


@pytest.fixture
def folder(tmp_path):
    """A folder data set of three images."""
    for name in "abc":
        image(tmp_path / "folder" / f"{name}.png", ord(name), 72, 70)
    (tmp_path / "folder" / "labels.csv").write_text("image,reference_id,mos\na.png,r,0.5\nb.png,s,0.6\nc.png,t,0.7\n")
    return tmp_path / "folder"


def files_below(root):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


# --- list


def test_the_list_says_what_every_data_set_is(iqarena):
    code, out, _ = iqarena("list", "datasets", "--json")
    assert code == 0
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert set(entries) == set(DATASETS)
    assert entries["kadid10k"]["count"] == 10_125
    assert entries["kadid10k"]["raw_range"] == [1, 5]
    assert entries["live"]["higher_is_better"] is False
    assert entries["tid2013-reconstructed"]["label_kind"] == "MOS (reconstructed)"
    assert all(entry["error"] is None and entry["about"] for entry in entries.values())


def test_data_list_says_what_lies_below_the_root(iqarena):
    code, out, _ = iqarena("data", "list")
    assert code == 0
    for name, cls in DATASETS.items():
        assert name in out
        assert not cls.count or f"{cls.count:,}" in out
    assert "dmos_realigned.mat or dmos.mat" in out
    assert "nothing; it is embedded" in out
    code, out, _ = iqarena("data", "list", "koniq10k", "--json")
    assert code == 0
    (entry,) = json.loads(out)
    assert entry["layout"][0] == "1024x768/*.jpg or 512x384/*.jpg"
    assert "found" not in entry


def test_data_list_says_what_is_in_a_folder(iqarena, kadid):
    code, out, _ = iqarena("data", "list", "--root", kadid.parent, "--json")
    assert code == 0
    found_by_name = {entry["name"]: entry["found"] for entry in json.loads(out)}
    assert found_by_name["kadid10k"] == "3 images"
    assert found_by_name["images"] == "5 images"
    assert found_by_name["spaq"].startswith(f"no: {kadid.parent}: holds no label file of SPAQ")
    code, out, _ = iqarena("data", "list", "kadid10k", "--root", kadid)
    assert "3 images" in out
    code, _, err = iqarena("data", "list", "kadid")
    assert code == 2
    assert "did you mean kadid10k" in err


# --- wrong data


def gone(root):
    (root / "images" / "I81_25_05.png").unlink()


def another_release(root):
    (root / "dmos.csv").write_text("dist_img,ref_img,score\nI01_01_01.png,I01.png,4\n")


def cut_labels(root):
    (root / "dmos.csv").write_text("dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4,0\n")


def twice(root):
    (root / "dmos.csv").write_text("dist_img,ref_img,dmos,var\n" + "I01_01_01.png,I01.png,4,0\n" * 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: [path.unlink() for path in root.rglob("*.*")], "holds no label file of KADID-10k"),
        (gone, "1 of the 3 images of KADID-10k are missing, the first is I81_25_05.png"),
        (another_release, "lacks the column(s) dmos"),
        (cut_labels, "holds 1 labels, KADID-10k has 3: cut, or of another release?"),
        (twice, "I01_01_01.png has more than one label"),
    ],
    ids=["wrong root", "half an archive", "another release", "cut", "duplicate rows"],
)
@pytest.mark.parametrize("command", ["run", "train"])
def test_a_wrong_data_set_is_one_line_and_nothing_is_written(iqarena, kadid, tmp_path, command, change, message):
    change(kadid)
    before = files_below(tmp_path)
    options = ["-a", "random-noise"] if command == "run" else []
    where = ["--dataset", "kadid10k", "--root", kadid, "--out", tmp_path / "out"]
    code, out, err = iqarena(command, "-m", "resnet-iqa", *options, *where)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("iqarena: ")
    assert message in err
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("zero-byte", "not a readable image"), ("sixteen-bit RGB", "16 bits a channel"), ("palette", "mode P"),
        ("cmyk", "mode CMYK"), ("animated", "has 2 frames"), ("turned", "EXIF says to turn it"), ("cut", "not a readable"),
        ("bomb", "decompression bomb"), ("missing", "no such file"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_used_is_one_line_before_anything_is_written(iqarena, folder, tmp_path, kind, message):
    spoil(folder / "b.png", kind)
    before = files_below(tmp_path)
    where = ["--dataset", "folder", "--root", folder, "--out", tmp_path / "out"]
    code, out, err = iqarena("run", "-m", "resnet-iqa", "-a", "random-noise", *where)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"iqarena: {folder / 'b.png'}: ")
    assert message in err
    assert files_below(tmp_path) == before
    code, out, err = iqarena("data", "verify", "folder", "--root", folder)
    assert code == 2
    assert [line.split()[1] for line in out.splitlines()] == ["file", "b.png"]
    assert err == "iqarena: folder has 1 problem(s) in 3 labelled images\n"
    assert files_below(tmp_path) == before


def test_wrong_originals_of_the_reconstructed_set_are_a_table(iqarena, tmp_path, monkeypatch):
    monkeypatch.setenv("IQARENA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "kodak"
    root.mkdir()
    for number in range(1, len(CROPS) + 1):
        Image.new("RGB", (8, 8)).save(root / f"kodim{number:02}.png")
    (root / "kodim03.png").write_bytes(b"")
    names = [f"i{r:02}_{t:02}_{n}.bmp" for r in range(1, 26) for t in range(1, 25) for n in range(1, 6)]
    (root / "mos_with_names.txt").write_text("".join(f"4.5 {name}\n" for name in names))
    code, out, err = iqarena("data", "verify", "tid2013-reconstructed", "--root", root)
    assert code == 2
    rows = [line.split()[:2] for line in out.splitlines()[1:] if not line.startswith(" ")]
    assert len(rows) == 24
    assert rows[2] == ["truncated", "kodim03.png"]
    assert all(row == ["changed", f"kodim{n:02}.png"] for n, row in enumerate(rows, 1) if n != 3)
    assert "24 problem(s)" in err
    assert not (tmp_path / "cache").exists()
