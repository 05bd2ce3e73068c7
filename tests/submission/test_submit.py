"""`iqarena submit`: what cannot be packed, and which cells can be claimed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import ImageDataset, Sample
from iqarena.bench.errors import UserError
from iqarena.bench.submission.rescoring import checked_cell
from iqarena.bench.submission.submit import export, submit_attack, submit_defense, submit_images
from tests.support.bundles import Bundles, quiet


def test_images_that_will_not_do_are_not_packed(bundles: Bundles, tmp_path: Path) -> None:
    def refusal(**changed: Any) -> str:
        args = {"folder": tmp_path / "a", "model": "cnniqa", "defense": "none", "dataset": "folder", "eps": "2/255"}
        with pytest.raises(UserError) as error:
            submit_images(**args | changed, norm="linf", name="x", root=bundles.root, out=tmp_path / "x.zip")
        assert not (tmp_path / "x.zip").exists()
        return str(error.value)

    assert "no such folder" in refusal()
    (tmp_path / "a").mkdir()
    assert "at least 2 images" in refusal()
    assert export(open_dataset("folder", bundles.root), 3, tmp_path / "a") == 3
    assert "no name of letters" not in refusal(eps="nonsense")
    assert "--eps" in refusal(eps="nonsense")
    assert "only what is listed" in refusal(model="file:m.py:M")
    first = min((tmp_path / "a").glob("*.png"))
    with pytest.raises(UserError, match="choose another --out"):
        submit_images(tmp_path / "a", "cnniqa", "none", "folder", "2/255", "linf", "x", bundles.root, Path())
    hidden = first.rename(tmp_path / "hidden")
    assert f"{first}: is missing; the others are of the images that `iqarena data export folder --limit 3`" in refusal()
    hidden.rename(first)
    shutil.copy(first, tmp_path / "a" / "another.png")
    assert "another.png: not one of the 4 images" in refusal()
    (tmp_path / "a" / "another.png").unlink()
    Image.new("RGB", (32, 32)).save(first)
    assert "1 of 3 images are outside linf ≤ 2/255" in refusal()
    first.write_bytes(b"nonsense")
    assert "not a PNG file" in refusal()


def test_an_attack_without_records_or_in_several_files_is_not_packed(bundles: Bundles, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no records of pgd; first iqarena run --attack pgd"):
        submit_attack("pgd", bundles.attack.parent / "runs", bundles.root, tmp_path / "x.zip", quiet)
    with pytest.raises(UserError, match="by its name, without parameters"):
        submit_attack("pgd[steps=3]", bundles.attack.parent / "runs", bundles.root, tmp_path / "x.zip", quiet)
    with pytest.raises(UserError, match="unknown attack"):
        submit_attack("pdg", bundles.attack.parent / "runs", bundles.root, tmp_path / "x.zip", quiet)
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("own.pt", "weights come as .safetensors"),
        ("none.safetensors", "cannot be read"),
        ("junk.safetensors", "not a safetensors file"),
        ("own.safetensors", "have no card"),
    ],
)
def test_weights_that_will_not_do_are_not_packed(file: str, message: str, bundles: Bundles, tmp_path: Path) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"\x80\x04junk")
    shutil.copy(bundles.defense.parent / "weights" / "own.safetensors", tmp_path)
    with pytest.raises(UserError, match=message):
        submit_defense(
            tmp_path / file,
            "cnniqa",
            "adversarial-training",
            "own",
            "quick",
            {},
            bundles.root,
            tmp_path / "r",
            tmp_path / "x.zip",
            quiet,
        )


def test_a_cell_of_a_submitted_attack_is_told_from_a_listed_one() -> None:
    fields = {
        "dataset": "demo",
        "model": "cnniqa",
        "defense": "none",
        "attack": "my own",
        "objective": "away",
        "norm": "linf",
        "eps": 2 / 255,
        "queries": None,
        "setting": "adaptive",
        "seed": 0,
        "draws": 8,
    }
    assert checked_cell(fields, {"attack": "my own"}).attack == "my own"
    with pytest.raises(UserError, match="unknown attack"):
        checked_cell(fields)


def test_a_cell_behind_a_chain_is_one_if_all_its_links_are_listed() -> None:
    fields = {
        "dataset": "demo",
        "model": "cnniqa",
        "attack": "pgd",
        "objective": "away",
        "norm": "linf",
        "eps": 2 / 255,
        "queries": None,
        "setting": "adaptive",
        "seed": 0,
        "draws": 8,
    }
    assert checked_cell({**fields, "defense": "jpeg[quality=30]+flip"}).defense == "jpeg[quality=30]+flip"
    for defense in ("jpeg[quality=30]+nothing", "jpeg[quality=30]+denoiser[weights=mine.pt]"):
        with pytest.raises(UserError, match=r"unknown defense|only what is listed"):
            checked_cell({**fields, "defense": defense})


class Named(ImageDataset):
    """A data set whose images have given ids."""

    name, label_kind, fingerprint = "named", "none", "0"

    def __init__(self, *ids: str) -> None:
        self.samples = [Sample(image_id, image_id) for image_id in ids]

    @classmethod
    def open(cls, root: Path | None) -> ImageDataset:
        raise NotImplementedError

    def image(self, index: int) -> torch.Tensor:
        return torch.full((3, 8, 8), index + 1, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("image_id", "expected"),
    [
        ("../b", "would be written outside of it"),
        ("sub/../../b", "would be written outside of it"),
        ("/b", "would be written outside of it"),
        ("link/b", "would be written outside of it"),
        ("link.png", "would be written outside of it"),
        ("a.png", "two images would be written to it"),
        ("./a", "two images would be written to it"),
        ("b\0", "control character"),
    ],
)
def test_images_are_exported_into_their_folder_or_not_at_all(tmp_path: Path, image_id: str, expected: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "link").symlink_to(tmp_path)
    (out / "link.png").symlink_to(tmp_path / "precious.png")
    with pytest.raises(UserError, match=expected):
        export(Named("a", image_id), None, out)
    assert sorted(file.name for file in out.iterdir()) == ["link", "link.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert export(Named("a", "sub/b"), None, out) == 2
    assert (out / "sub" / "b.png").is_file()


@pytest.mark.parametrize("out", [".", "through"])
def test_originals_are_not_replaced_by_exported_images(bundles: Bundles, tmp_path: Path, out: str) -> None:
    root = tmp_path / "set"
    shutil.copytree(bundles.root, root)
    (root / "through").symlink_to(root)
    before = {file: file.read_bytes() for file in root.rglob("*.png")}
    with pytest.raises(UserError, match="the data set's own"):
        export(open_dataset("folder", root), None, root / out)
    assert {file: file.read_bytes() for file in root.rglob("*.png")} == before
