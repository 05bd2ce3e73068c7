"""Recovery of a results folder: missing stored images, failed renames, killed runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from iqarena.bench.errors import UserError
from iqarena.bench.leaderboard.examples import prune
from iqarena.bench.results.store import Records
from tests.support.board_records import BAD, GOOD, IMAGES, put

PIXELS = torch.arange(8 * 8 * 3, dtype=torch.uint8).reshape(3, 8, 8)


def record_of(records: Records) -> dict:
    (record,) = records.all()
    return record


def test_kept_images_that_were_pruned_are_kept_again_when_their_cell_is_run_again(records: Records) -> None:
    put(records, GOOD, kept=True)
    assert prune(records, []) == 2 * IMAGES
    with pytest.raises(UserError, match="--fresh --keep-images"):
        records.attacked_images(record_of(records))
    put(records, GOOD, kept=True)
    kept = records.attacked_images(record_of(records))
    assert kept is not None
    assert [int(image[0, 0, 0]) for image in kept] == list(range(1, IMAGES + 1))


@pytest.mark.parametrize("end", [0, 20, -20])
def test_a_kept_image_that_is_damaged_is_made_whole_when_its_cell_is_run_again(records: Records, end: int) -> None:
    put(records, GOOD, kept=True)
    record = record_of(records)
    path = records.kept_images.attacked(record["crafting"], 3)
    path.write_bytes(path.read_bytes()[:end] + b"?" * 40)
    with pytest.raises(UserError, match=r"00003.png: .*--fresh --keep-images"):
        records.attacked_images(record)
    put(records, GOOD, kept=True)
    assert records.attacked_images(record) is not None


def test_kept_images_that_are_there_are_not_written_again(records: Records) -> None:
    put(records, GOOD, kept=True)
    path = records.kept_images.attacked(record_of(records)["crafting"], 0)
    before = path.stat().st_ino
    put(records, BAD, kept=True)
    assert path.stat().st_ino == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("end", [".part", ".old"])
def test_what_cannot_take_the_place_of_a_cell_leaves_the_cell_there(
    records: Records, monkeypatch: pytest.MonkeyPatch, error: BaseException, end: str
) -> None:
    """The rename of the new folder fails, or an interrupt lands right after the old one was set aside."""
    put(records, GOOD)
    before = record_of(records)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if end == ".part" and self.suffix == end:
            raise error
        moved = real(self, target)
        if end == ".old" and target.suffix == end:
            raise error
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((UserError, KeyboardInterrupt)):
        put(records, BAD)
    assert record_of(Records(records.folder)) == before
    assert not list(records.cells.glob(".*"))


def test_what_a_killed_run_had_set_aside_comes_back_and_its_litter_goes(records: Records) -> None:
    put(records, GOOD, kept=True)
    record = record_of(records)
    folder = records.cells / record["cell_id"]
    folder.rename(folder.with_name(f".{folder.name}.123.old"))
    (records.cells / f".{folder.name}.123.part").mkdir()
    litter = records.kept_images.original("f" * 64, "p00").with_suffix(".123.part")
    litter.write_bytes(b"half an image")
    with records.writing():
        assert record_of(records) == record
    assert not [*records.cells.glob(".*"), *records.kept_images.folder.glob("*/*.part")]
    folder.with_name(f".{folder.name}.123.old").mkdir()
    with records.writing():  # where the new one is there, the old one goes
        assert record_of(records) == record
    assert not list(records.cells.glob(".*"))


def test_originals_are_read_as_they_were_kept(records: Records) -> None:
    from iqarena.bench.datasets.base import read_image

    records.kept_images.keep_originals("f" * 64, [("an image", PIXELS)])
    path = records.kept_images.original("f" * 64, "an image")
    assert torch.equal(read_image(path), PIXELS)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
