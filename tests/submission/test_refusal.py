"""`iqarena verify`: bundles with other claims, members or weights than they should have are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from iqarena.bench.errors import UserError
from iqarena.bench.submission import bundle
from iqarena.bench.submission.verify import verify
from tests.support.bundles import Bundles, quiet, repacked


def cell_with(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of the first claimed cell's fields."""
    return lambda manifest: manifest["claims"][0]["cell"].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cell_with(model="file:/tmp/evil.py:Evil"), "only what is listed"),
        (cell_with(model="torchscript:evil.pt"), "only what is listed"),
        (cell_with(model="cnniqa[weights=/tmp/evil.pkl]"), "only what is listed"),
        (cell_with(model="cnniqa[weights=evil.pkl]"), "only what is listed"),
        (cell_with(model="no-such-model"), "unknown model"),
        (cell_with(defense="file:evil.py:Evil"), "only what is listed"),
        (cell_with(defense="jpeg+file:evil.py:Evil"), "only what is listed"),
        (cell_with(defense="adversarial-training[weights=evil.pt]"), "only what is listed"),
        (cell_with(source="file:evil.py:Evil", setting="transfer"), "only what is listed"),
        (cell_with(source="cnniqa", setting="transfer"), "no cell: a source is the other model"),
        (cell_with(source="brisque"), "no cell: a source is the other model"),
        (cell_with(setting="transfer"), "no cell: a source is the other model"),
        (cell_with(model="x[a=" + "[" * 100_000), "is no name of letters"),
        (cell_with(dataset="../../etc"), "only what is listed"),
        (cell_with(dataset="nowhere"), "unknown data set"),
        (cell_with(eps=7), "no cell"),
        (cell_with(norm="l7"), "no cell"),
        (cell_with(draws=10**9), "no cell"),
        (cell_with(virus=1), "no cell"),
        (lambda m: m["claims"][0].update(fingerprint="another"), "not those of the claim"),
        (lambda m: m["claims"][0].update(n_images=5), "5 images are claimed"),
        (lambda m: m["claims"][0].update(n_images=3), "other images or labels|has more images"),
        (lambda m: m["claims"].append(m["claims"][0]), "claimed twice"),
        (lambda m: m["claims"][0].update(cell_id="f" * 16), "is missing"),
    ],
)
def test_a_claim_about_what_is_not_listed_is_refused(change: Any, message: str, bundles: Bundles, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        verify(repacked(bundles.images, tmp_path, change), bundles.root)
    assert "\n" not in str(refusal.value)


def test_qualities_that_no_model_can_give_are_refused(bundles: Bundles, tmp_path: Path) -> None:
    with bundle.open_bundle(bundles.images) as opened:
        text = opened.text(next(name for name in opened.manifest.members if name.endswith("images.csv")))
    header, first, *others = text.splitlines()
    values = first.split(",")
    values[header.split(",").index("adv_quality")] = "1e308"
    path = repacked(bundles.images, tmp_path, **{"images.csv": "\n".join([header, ",".join(values), *others]).encode()})
    with pytest.raises(UserError, match="holds qualities that no float32 score can be"):
        verify(path, bundles.root)


def test_an_attack_may_only_bring_itself(bundles: Bundles, tmp_path: Path) -> None:
    path = repacked(bundles.attack, tmp_path, cell_with(attack="file:other.py:Other"))
    with pytest.raises(UserError, match="only what is listed"):
        verify(path, bundles.root)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"00003.png": None}, "has 3 of 4 images"),
        ({"00000.png": None}, "not numbered from 00000.png on"),
        ({"00000.png": b"GIF89a"}, "not a PNG file"),
        ({"00000.png": bundle.encode_png(torch.zeros(3, 64, 64, dtype=torch.uint8))}, "is 64×64, and the clean image 32×32"),
        ({"images.csv": b""}, "is no images.csv"),
        ({"images.csv": b"a,b\n1,2\n"}, "is no images.csv"),
        ({"images.csv": b"\xff\xfe"}, "is not UTF-8"),
        ({"images.csv": None}, "is missing"),
    ],
)
def test_members_that_are_not_what_they_should_be_are_refused(
    members, message: str, bundles: Bundles, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        verify(repacked(bundles.images, tmp_path, **members), bundles.root)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("members", "change", "message"),
    [
        ({"weights.safetensors": b"\x00" * 100}, quiet, "is not the .* of its card"),
        ({"weights.safetensors": b"\x00" * 100, "weights.yaml": b""}, quiet, "not a safetensors file"),
        ({"weights.safetensors": b"\0\0\0\xff\0\0\0\0{", "weights.yaml": b""}, quiet, "not a safetensors file"),
        ({"weights.safetensors": save({"x": torch.zeros(2)}), "weights.yaml": b""}, quiet, "not the weights of"),
        ({"weights.yaml": b"- [broken"}, quiet, "not a card"),
        ({"weights.yaml": None}, quiet, "is missing"),
        ({}, lambda m: m["plugin"].update(recipe="jpeg"), "is no training recipe"),
        ({}, lambda m: m["plugin"].update(recipe="file:evil.py:Evil"), "only what is listed"),
        ({}, lambda m: m["plugin"].update(file="source/mine.py"), "comes as weights.safetensors"),
        ({}, lambda m: m["plugin"].update(model="resnet-iqa"), "of another model or defense"),
        ({}, lambda m: (m.update(name="jpeg"), [c["cell"].update(defense="jpeg") for c in m["claims"]]), "taken"),
    ],
)
def test_weights_that_are_not_what_they_should_be_are_refused(
    members, change, message, bundles: Bundles, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        verify(repacked(bundles.defense, tmp_path, change, **members), bundles.root)
    assert "\n" not in str(refusal.value)
