"""Shipped weights: files and cards, their measured facts, and the lists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

import docs.reference.rank_zoo as rank
from iqarena.bench.cli.app import app
from iqarena.bench.cli.catalogue import catalogue, parameters_of
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.registry import MODELS, Entry, parse_spec, spec_of
from iqarena.models.zoo import ZOO, card_of, load_weights


@pytest.fixture
def zoo(tmp_path, monkeypatch) -> Path:
    """A writable copy of a part of the zoo."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for stem in ("resnet-iqa", "resnet-iqa+cprl", "fcn-filter"):
        for suffix in (".safetensors", ".yaml"):
            shutil.copy(ZOO / f"{stem}{suffix}", folder)
    monkeypatch.setattr(rank, "ZOO", folder)
    return folder


def ranked(*args: str):
    command = typer.Typer()
    command.command()(rank.main)
    return CliRunner().invoke(command, list(args))


def test_every_model_of_the_zoo_has_weights_that_fit_and_a_card():
    for file in sorted(ZOO.glob("*.safetensors")):
        card = card_of(file)
        entry = MODELS.entries.get(card["model"])
        if entry is None:
            continue
        assert entry.cls is not None
        assert entry.cls.in_zoo
        assert card["data"]["images"], f"{file.name}: say which images it was trained on"
        assert isinstance(card["measured"]["demo_srocc_pseudo_mos"], float)
        if card["defense"] == "none":
            load_weights(entry.cls(), file)
            assert card["parameters"] == parameters_of(entry.cls)


def test_models_without_batchnorm_are_without_it():
    with torch.device("meta"):
        model = MODELS.find("resnet-iqa-nf")()
    assert not any(isinstance(part, torch.nn.modules.batchnorm._NormBase) for part in model.modules())
    assert (ZOO / "resnet-iqa-nf.safetensors").is_file()


def test_shipped_models_are_ranked_and_it_is_written_into_their_cards(zoo):
    done = ranked("demo", "--limit", "24", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"resnet-iqa", "resnet-iqa+cprl"}
    before, card = card_of(ZOO / "resnet-iqa.safetensors"), card_of(zoo / "resnet-iqa.safetensors")
    ranking = card["measured"].pop("demo")
    before["measured"].pop("demo", None)
    assert card == before
    assert ranking["images"] == 24
    assert ranking["label_kind"] == "pseudo-MOS"
    assert ranking["fingerprint"] == Demo().fingerprint
    assert ranking["srocc"] > 0.6  # of some 24 images of a set on which it reaches 0.87
    load_weights(MODELS.find("resnet-iqa")(), zoo / "resnet-iqa.safetensors")  # the card still vouches for the file


def test_only_those_that_are_named_are_ranked(zoo):
    done = ranked("demo", "resnet-iqa", "--limit", "4")
    assert done.exit_code == 0
    assert "demo" in yaml.safe_load((zoo / "resnet-iqa.yaml").read_text())["measured"]
    assert "demo" not in yaml.safe_load((zoo / "resnet-iqa+cprl.yaml").read_text())["measured"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nodata"], "nodata"),
        (["demo", "resnet-iqaa"], "no shipped model is called 'resnet-iqaa'"),
        (["images", "--root", "."], "has no labels"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(zoo, args, message, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    done = ranked(*(str(tmp_path) if word == "." else word for word in args))
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# --- lists


def test_models_are_listed_with_their_facts():
    listed = json.loads(CliRunner().invoke(app, ["list", "models", "--json"]).stdout)
    by_name = {entry["name"]: entry for entry in listed}
    assert {
        "cnniqa", "wadiqam-nr", "nima-mobilenet", "resnet-iqa", "resnet18-iqa", "resnet50-iqa", "dbcnn", "hyperiqa",
        "linearity-iqa", "niqe", "brisque", "pyiqa:", "torchscript:", "onnx:",
    } <= set(by_name)  # fmt: skip
    assert by_name["brisque"]["differentiable"] is False
    assert by_name["niqe"]["higher_is_better"] is False
    assert by_name["hyperiqa"]["weights"] == "yours"
    assert "iqarena train" in by_name["hyperiqa"]["weights_wanted"]
    assert by_name["hyperiqa"]["imagenet"] == "resnet50"
    assert by_name["resnet-iqa"]["weights"] == "shipped"
    assert by_name["resnet-iqa"]["feature_maps"] is True
    measured = by_name["resnet-iqa"]["measured"]["demo_srocc_pseudo_mos"]
    assert measured == card_of(ZOO / "resnet-iqa.safetensors")["measured"]["demo_srocc_pseudo_mos"] > 0.8
    assert by_name["onnx:"]["bridge"] is True
    assert all(entry["error"] is None for entry in listed)


def test_a_spec_is_written_as_it_is_read():
    for spec in ("cprl", "cprl[mask=none,weights=seed1]", "trades[beta=3.0]"):
        assert spec_of(*parse_spec(spec)) == spec
    assert spec_of("cprl", {"mask": "none", "weights": ""}) == "cprl[mask=none]"


def test_a_broken_model_stays_on_the_list(monkeypatch):
    monkeypatch.setitem(MODELS.entries, "odd", Entry("odd", None, "ImportError: no such thing"))
    entry = next(entry for entry in catalogue("models") if entry["name"] == "odd")
    assert entry["error"] == "ImportError: no such thing"


def test_parameters_are_counted_without_making_them():
    assert parameters_of(MODELS.find("resnet-iqa")) == 610_553
