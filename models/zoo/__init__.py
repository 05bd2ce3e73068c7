"""Trained weights: safetensors with a YAML card each, named ``MODEL.safetensors`` or ``MODEL+DEFENSE.safetensors``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

ZOO = Path(__file__).parent


class WeightsError(Exception):
    """Weights that are missing, damaged or of another network; the message says which and what to do."""


def weight_file(model: str, defense: str = "none", folder: Path = ZOO) -> Path:
    """Where the weights of a model under a training defense lie."""
    return folder / (f"{model}.safetensors" if defense == "none" else f"{model}+{defense}.safetensors")


def card_of(path: Path) -> dict[str, Any]:
    """The card beside a weight file; empty where there is none."""
    card = path.with_suffix(".yaml")
    try:
        loaded = yaml.safe_load(card.read_text()) if card.is_file() else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        loaded = "broken"
    if loaded is None:
        loaded = {}
    if not isinstance(loaded, dict):
        raise WeightsError(f"{card}: not a card; restore the file or delete it")
    return loaded


def sha256_of(path: Path) -> str:
    """Hash of a weight file.

    Raises:
        WeightsError: where it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}); train with `iqarena train` or name another file"
        ) from None


def load_weights(module: nn.Module, path: Path) -> str:
    """Load weights into a module; returns their sha256.

    Raises:
        WeightsError: where the file is missing, is no safetensors file, differs from its card or does not fit.
    """
    sha256 = sha256_of(path)
    if (expected := card_of(path).get("sha256", sha256)) != sha256:
        raise WeightsError(f"{path}: sha256 {sha256[:12]}… is not the {expected[:12]}… of its card; restore the file")
    try:
        module.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error})") from None
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: not the weights of {type(module).__name__} ({str(error).splitlines()[-1].strip()})"
        ) from None
    return sha256


def save_weights(module: nn.Module, path: Path, card: dict[str, Any]) -> None:
    """Write weights and card; both replace what was there only when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, part)
    card = card | {"sha256": sha256_of(part), "parameters": sum(p.numel() for p in module.parameters())}
    part.replace(path)
    card_part = path.with_suffix(".yaml.part")
    card_part.write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110))
    card_part.replace(path.with_suffix(".yaml"))
