"""Trained weights: safetensors with a YAML card each, named ``MODEL.safetensors`` or ``MODEL+DEFENSE.safetensors``.

Further weights of the same, as of other seeds, have a label: ``MODEL+DEFENSE@LABEL.safetensors``. Those that are not shipped
may lie in a folder of your own, named by the environment variable ``IQARENA_WEIGHTS``: specs name the label, not the folder.

Weights of others may also come as PyTorch's own ``.pt``, ``.pth`` or ``.pkl``, of which nothing but tensors is read.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

ZOO = Path(__file__).parent
PYTORCH = (".pt", ".pth", ".pkl")


class WeightsError(Exception):
    """Weights that are missing, damaged or of another network; the message says which and what to do."""


def weight_file(model: str, defense: str = "none", folder: Path | None = None, label: str = "") -> Path:
    """Where the weights of a model under a training defense lie, here or in a folder; `label` tells some from others."""
    stem = model if defense == "none" else f"{model}+{defense}"
    return (folder or ZOO) / (f"{stem}@{label}.safetensors" if label else f"{stem}.safetensors")


def chosen_file(weights: str, model: str, defense: str = "none") -> Path:
    """What ``weights=`` stands for: nothing for the zoo's file, a label for the zoo's or else your own of it, or a file."""
    if weights and (Path(weights).name != weights or Path(weights).suffix):
        return Path(weights)
    shipped, own = weight_file(model, defense, label=weights), os.environ.get("IQARENA_WEIGHTS")
    return weight_file(model, defense, Path(own), weights) if weights and own and not shipped.is_file() else shipped


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


def state_sha256(module: nn.Module) -> str:
    """Hash of the names and values of all weights of a module, wherever they came from."""
    found = hashlib.sha256()
    for key, value in module.state_dict().items():
        found.update(key.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def load_weights(module: nn.Module, path: Path) -> str:
    """Load weights into a module; returns their sha256.

    Args:
        module: what they are for.
        path: a safetensors file, or a ``.pt``, ``.pth`` or ``.pkl`` of PyTorch with a state dict, alone or in a checkpoint
            that holds one only; a leading ``module.`` of parallel training is taken off.

    Raises:
        WeightsError: where the file is missing, is of another kind, holds code, differs from its card or does not fit.
    """
    sha256 = sha256_of(path)
    if (expected := card_of(path).get("sha256", sha256)) != sha256:
        raise WeightsError(f"{path}: sha256 {sha256[:12]}… is not the {expected[:12]}… of its card; restore the file")
    state = read_state(path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: not the weights of {type(module).__name__} ({str(error).splitlines()[-1].strip()})"
        ) from None
    return sha256


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a weight file; see `load_weights` for what may be read.

    Raises:
        WeightsError: where the file is missing, is of another kind or holds code.
    """
    sha256_of(path)  # whether it can be read at all
    try:
        return _pytorch_file(path) if path.suffix in PYTORCH else load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error})") from None


def _pytorch_file(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file of PyTorch's.

    Raises:
        WeightsError: where it cannot be read, or only by running what it says.
    """
    # of this old format torch < 2.6 runs code even with weights_only=True (CVE-2025-32434); newer ones refuse it as well
    if tarfile.is_tarfile(path):
        raise WeightsError(f"{path}: an archive of an old kind, which may hold code; save its state dict as safetensors")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise WeightsError(f"{path}: refused, not tensors alone ({reason}); save its state dict as safetensors") from None
    except Exception as error:  # a damaged file fails in as many ways as there are parsers in it
        raise WeightsError(f"{path}: not a weight file of PyTorch ({' '.join(str(error).split())[:200]})") from None
    whole = loaded if isinstance(loaded, Mapping) else {}
    found = [inner for inner in (whole, *whole.values()) if _is_state(inner)]
    if len(found) != 1:
        keys = ", ".join(map(str, list(whole)[:8]))
        raise WeightsError(f"{path}: holds {len(found)} state dicts ({keys or type(loaded).__name__}); save the one alone")
    state = dict(found[0])
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(inner, torch.Tensor) for inner in value.values())


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
