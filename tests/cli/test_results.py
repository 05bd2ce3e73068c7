"""`iqarena results`: a packed folder is resumed on and read by every command as the folder form is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from iqarena.bench.cli.app import app
from iqarena.bench.errors import UserError
from tests.support.small_runs import four_images


def say(*words: object) -> str:
    """The output of a command, which must end well."""
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.output


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """The same results loose and packed, and the command that made them."""
    folder = tmp_path_factory.mktemp("results")
    four_images(folder / "data")
    run = ["run", "-m", "cnniqa", "-d", "none", "-d", "jpeg", "-a", "fgsm", "-a", "random-noise", "--dataset", "folder",
           "--root", str(folder / "data"), "--out"]  # fmt: skip
    for name in ("loose", "packed"):
        say(*run, folder / name)
    said = say("results", "pack", folder / "packed")
    assert re.search(r"packed: \d+ cells, \d\.\d MiB", said)
    return folder / "loose", folder / "packed", run


def test_a_run_resumes_on_a_packed_folder(both: tuple[Path, Path, list[str]]) -> None:
    loose, packed, run = both
    count = len(list(loose.glob("cells/*")))
    assert f"{count} kept from before" in say(*run, packed)
    assert not list(packed.glob("cells/*"))
    more = say(*run, packed, "-a", "nes[queries=4]")
    assert f"{count} kept from before" in more
    assert 0 < len(list(packed.glob("cells/*"))) < count
    for cell in packed.glob("cells/*"):  # the tests below compare with the loose folder
        for file in cell.iterdir():
            file.unlink()
        cell.rmdir()


def test_leaderboard_and_compare_say_the_same_of_both(both: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    boards, tables = [], []
    for folder in both[:2]:
        say("leaderboard", "--results", folder, "--out", folder)
        boards.append((folder / "leaderboard.md").read_text(encoding="utf-8").replace(folder.name, "RESULTS"))
        tables.append(say("compare", "none", "jpeg", "--results", folder, "--out", tmp_path).replace(folder.name, "RESULTS"))
    for board in boards:  # costs are measured in each run
        assert board.startswith("# IQArena leaderboard")
    numbers = [re.sub(r"\d+\.\d\d×", "×", board) for board in boards]
    assert numbers[0] == numbers[1]
    assert tables[0] == tables[1]


def test_a_packed_row_is_submitted_and_verified(both: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    _, packed, run = both
    root = run[run.index("--root") + 1]
    bundle = tmp_path / "bundle.zip"
    said = say("submit", "attack", "fgsm", "--results", packed, "--root", root, "--out", bundle)
    assert "attack fgsm" in said
    assert "as claimed" in say("verify", bundle, "--root", root, "--results", packed)


def test_unpack_brings_the_folders_back(both: tuple[Path, Path, list[str]]) -> None:
    loose, packed, _ = both
    before = {file.parent.name for file in loose.glob("cells/*/record.json")}
    assert f"{len(before)} cells" in say("results", "unpack", packed)
    assert {file.parent.name for file in packed.glob("cells/*/record.json")} == before
    assert not (packed / "packed").exists()
    say("results", "pack", packed)


@pytest.mark.parametrize("command", ["pack", "unpack"])
def test_another_folder_is_refused_in_a_line(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(app, ["results", command, str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert "is no results folder" in str(done.exception)
