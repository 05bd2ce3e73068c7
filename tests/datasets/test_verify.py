"""`iqarena data verify`: the problems of a data set on disk, as a table."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from iqarena.bench.cli.app import app
from iqarena.bench.datasets.verify import verify
from tests.datasets.test_image_files import spoil
from tests.support.published_layouts import EXPECTED, READERS, WORKBOOKS, WRITERS, image, live


def problems_of(name, root):
    return sorted((problem.kind, problem.file) for problem in verify(name, root)[1])


def files_below(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def kadid(tmp_path, monkeypatch):
    monkeypatch.setattr(READERS["kadid10k"], "count", 3)
    monkeypatch.setattr(READERS["kadid10k"], "side", None)
    WRITERS["kadid10k"](tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_whole_data_set_has_no_problem(tmp_path, monkeypatch, name):
    if name in WORKBOOKS:
        pytest.importorskip("openpyxl")
    WRITERS[name](tmp_path)
    monkeypatch.setattr(READERS[name], "count", 3)
    monkeypatch.setattr(READERS[name], "side", READERS[name].side and (24, 20))
    assert verify(name, tmp_path) == (3, [])


def test_copies_of_references_are_no_extra_images_of_live(tmp_path):
    live(tmp_path)
    assert verify("live", tmp_path) == (779, [])  # enough of them to be decoded by worker processes
    image(tmp_path / "jp2k" / "mine.png")
    (tmp_path / "wn" / "img174.bmp").write_bytes(b"")
    assert problems_of("live", tmp_path) == [("extra", "jp2k/mine.png"), ("truncated", "wn/img174.bmp")]


def test_every_kind_of_problem_is_found_and_nothing_is_written(kadid):
    images = kadid / "images"
    (images / "I01_01_01.png").unlink()
    image(images / "I01_01_02.png", 0, 21, 20)
    whole = (images / "I81_25_05.png").read_bytes()
    (images / "I81_25_05.png").write_bytes(whole[: len(whole) // 2])
    image(images / "I99_01_01.png")
    image(kadid / "elsewhere" / "mine.png")  # not in the images' folder, so it is ignored
    before = files_below(kadid)
    assert problems_of("kadid10k", kadid) == [
        ("extra", "images/I99_01_01.png"), ("missing", "I01_01_01.png"), ("truncated", "I81_25_05.png")
    ]  # fmt: skip
    assert files_below(kadid) == before


def test_an_image_of_another_size_than_the_other_versions_of_its_reference_is_told(kadid, monkeypatch):
    monkeypatch.setattr(READERS["kadid10k"], "count", 4)
    with (kadid / "dmos.csv").open("a") as file:
        file.write("I01_01_03.png,I01.png,3,0\n")
    image(kadid / "images" / "I01_01_03.png", 0, 21, 20)
    _, problems = verify("kadid10k", kadid)
    assert [(p.kind, p.file, p.about) for p in problems] == [("wrong-size", "I01_01_03.png", "21×20, not 24×20")]


def test_an_image_of_another_size_than_the_release_states_is_told(kadid, monkeypatch):
    monkeypatch.setattr(READERS["kadid10k"], "side", (512, 384))
    _, problems = verify("kadid10k", kadid)
    assert {(p.kind, p.about) for p in problems} == {("wrong-size", "24×20, not 512×384")}
    assert len(problems) == 3


@pytest.mark.parametrize(
    ("kind", "as_"),
    [
        ("missing", "missing"), ("zero-byte", "truncated"), ("text", "unreadable"), ("animated", "unreadable"),
        ("sixteen-bit", "unreadable"), ("sixteen-bit RGB", "unreadable"), ("cmyk", "unreadable"), ("bomb", "unreadable"),
        ("alpha", "unreadable"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_used_is_told(kadid, kind, as_):
    spoil(kadid / "images" / "I81_25_05.png", kind)
    assert problems_of("kadid10k", kadid) == [(as_, "I81_25_05.png")]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_a_file_that_ends_too_early_is_truncated_in_every_format_of_a_published_set(tmp_path, suffix, natural):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(natural).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert problems_of("images", tmp_path) == [("truncated", path.name)]


def test_all_wrong_labels_are_told_at_once(kadid):
    (kadid / "dmos.csv").write_text(
        "dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,7,0\nI01_01_02.png,I01.png,4,0\nI01_01_02.png,I01.png,4,0\n"
        "I81_25_05.png,I81.png,x,0\n"
    )
    _, problems = verify("kadid10k", kadid)
    assert {problem.file for problem in problems if problem.kind == "labels"} == {str(kadid / "dmos.csv")}
    messages = [problem.about for problem in problems if problem.kind == "labels"]
    assert len(messages) == 4
    for word in ("holds 4 labels", "I01_01_02.png has more than one label", "score 7 is", "score x is"):
        assert any(word in about for about in messages), word


def test_folder_and_images_are_looked_at_too(tmp_path):
    for name in ("a.png", "b.png"):
        image(tmp_path / name)
    spoil(tmp_path / "b.png", "turned")
    (tmp_path / "scores.csv").write_text("file,score\na.png,1\nb.png,0\nc.png,1\n")
    assert problems_of("images", tmp_path) == [("unreadable", "b.png")]
    spec = "folder[table=scores.csv,image=file,reference=file,mos=score]"
    assert problems_of(spec, tmp_path) == [("missing", "c.png"), ("unreadable", "b.png")]


# --- the command


def run(*arguments):
    return CliRunner().invoke(app, ["data", "verify", *map(str, arguments)])


def test_the_command_says_that_all_is_well(kadid):
    result = run("kadid10k", "--root", kadid)
    assert result.exit_code == 0
    assert "whole: 3 images" in result.output
    completed = run("kadid10k", "--root", kadid, "--json")
    assert completed.exit_code == 0
    assert json.loads(completed.stdout) == {"dataset": "kadid10k", "images": 3, "problems": []}


def test_the_command_shows_a_table_and_exits_with_2(kadid):
    (kadid / "images" / "I01_01_01.png").unlink()
    image(kadid / "images" / "[red]extra.png")
    result = run("kadid10k", "--root", kadid)
    assert result.exit_code == 2
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["kind", "file", "about"]
    assert [line[:2] for line in lines[1:]] == [["extra", "images/[red]extra.png"], ["missing", "I01_01_01.png"]]
    assert "2 problem(s) in 3 labelled images" in result.stderr
    completed = run("kadid10k", "--root", kadid, "--json")
    assert completed.exit_code == 2
    assert [problem["kind"] for problem in json.loads(completed.stdout)["problems"]] == ["extra", "missing"]
