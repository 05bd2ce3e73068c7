"""Weights that torch would load in silence: of another kind of numbers, not finite, swapped or damaged; and broken cards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from iqarena.models.zoo import WeightsError, card_of, chosen_file, load_weights, read_state
from tests.support.fuzz import FUZZ, ODD, refusal


class Masked(nn.Module):
    """A network with weights, a counter of whole numbers, and a mask with infinities."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(40, 3), nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("chosen", torch.tensor([True, False]))


def loaded(file: Path, changes: dict[str, torch.Tensor]) -> str:
    """Save the weights of a network with changes, load them; return the refusal, empty if there was none."""
    torch.manual_seed(0)
    state = {name: value.clone() for name, value in Masked().state_dict().items()} | changes
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return refusal(lambda: load_weights(Masked(), file), WeightsError)


WEIGHT = torch.arange(120).reshape(3, 40)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("layer.weight", WEIGHT.to(torch.int8), "layer.weight is int8, and the network has float32"),
        ("layer.weight", WEIGHT, "layer.weight is int64, and the network has float32"),
        ("layer.weight", WEIGHT > 3, "layer.weight is bool"),
        ("layer.weight", WEIGHT.to(torch.complex64), "layer.weight is complex64"),
        ("layer.weight", (WEIGHT / 120).to(torch.float8_e4m3fn), "layer.weight is float8_e4m3fn"),
        ("norm.num_batches_tracked", torch.tensor(1.5), "norm.num_batches_tracked is float32, and the network has int64"),
        ("chosen", torch.tensor([1, 0]), "chosen is int64, and the network has bool"),
        ("layer.bias", torch.tensor([1.0, torch.nan, torch.inf]), "layer.bias has 2 numbers that are not finite"),
        ("mask", torch.tensor([torch.inf, -torch.inf]), "mask has 1 numbers that are not finite"),
    ],
)
def test_numbers_that_a_network_cannot_have_are_refused(tmp_path, suffix, name, value, expected):
    assert expected in loaded(tmp_path / f"w{suffix}", {name: value})


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_other_sizes_of_the_same_kind_of_numbers_are_read(tmp_path, suffix):
    half = {"layer.weight": WEIGHT.half() / 120, "layer.bias": torch.ones(3, dtype=torch.float64)}
    half |= {
        "norm.weight": torch.ones(3, dtype=torch.bfloat16),
        "norm.num_batches_tracked": torch.tensor(3, dtype=torch.int32),
    }
    assert loaded(tmp_path / f"w{suffix}", {}) == ""
    assert loaded(tmp_path / f"w{suffix}", half) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_with_their_bytes_in_the_wrong_order_are_refused(tmp_path, dtype):
    torch.manual_seed(0)
    right = {"a": (torch.randn(20, 20) * 0.05).to(dtype), "b": torch.tensor(1.0, dtype=dtype)}
    swapped = {
        name: value.reshape(-1)
        .view(torch.uint8)
        .reshape(-1, dtype.itemsize)
        .flip(1)
        .reshape(-1)
        .view(dtype)
        .reshape(value.shape)
        for name, value in right.items()
    }
    save_file(right, tmp_path / "right.safetensors")
    save_file(swapped, tmp_path / "swapped.safetensors")
    assert set(read_state(tmp_path / "right.safetensors")) == {"a", "b"}
    assert "wrong byte order" in refusal(lambda: read_state(tmp_path / "swapped.safetensors"), WeightsError)


def test_weights_that_have_vanished_or_are_all_zero_are_not_swapped(tmp_path):
    for name, value in {"zero": torch.zeros(50), "tiny": torch.rand(500) * 1e-40}.items():
        save_file({"a": value}, tmp_path / f"{name}.safetensors")
        assert "a" in read_state(tmp_path / f"{name}.safetensors")


def test_a_pytorch_file_with_one_flipped_byte_is_refused(tmp_path):
    file = tmp_path / "w.pt"
    assert loaded(file, {}) == ""
    content = bytearray(file.read_bytes())
    weights = torch.load(file, weights_only=True)["layer.weight"].numpy().tobytes()
    content[content.find(weights)] ^= 0x01  # the last bit of one weight
    file.write_bytes(content)
    assert "is damaged" in refusal(lambda: load_weights(Masked(), file), WeightsError)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@FUZZ
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=3), st.floats(0, 1) | st.none())
def test_a_damaged_weight_file_is_read_or_refused_in_one_line(tmp_path, suffix, changes, cut):
    file = tmp_path / f"w{suffix}"
    assert loaded(file, {}) == ""
    content = bytearray(file.read_bytes())
    for place, values in changes:
        start = int(place * len(content))
        content[start : start + len(values)] = values
    file.write_bytes(content[: int(cut * len(content))] if cut is not None else content)
    refused = refusal(lambda: load_weights(Masked(), file), WeightsError)
    assert refused == "" or str(file) in refused


@FUZZ
@given(st.sampled_from(ODD) | st.text(max_size=20), st.binary(max_size=30))
def test_a_card_is_read_or_refused_in_one_line(tmp_path, value, raw):
    card = tmp_path / "w.yaml"
    card.write_bytes(b"sha256: " + value.encode("utf-8", "replace") + b"\n" + raw)
    refused = refusal(lambda: card_of(tmp_path / "w.safetensors"), WeightsError)
    assert refused == "" or refused.startswith(str(card))


def test_a_card_is_utf_8_and_has_every_key_once(tmp_path):
    card = tmp_path / "w.yaml"
    card.write_text("about: größe\n", encoding="utf-8")
    assert card_of(card.with_suffix(".safetensors")) == {"about": "größe"}
    card.write_text("sha256: a\nsha256: b\n")
    assert "not a card" in refusal(lambda: card_of(card.with_suffix(".safetensors")), WeightsError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pt")
    assert "not a file" in refusal(lambda: load_weights(Masked(), tmp_path / "w.pt"), WeightsError)


def test_a_path_of_weights_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert chosen_file("~/w.pt", "cnniqa") == tmp_path / "w.pt"
    assert chosen_file("./w.pt", "cnniqa") == Path("w.pt")
