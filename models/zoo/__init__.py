"""Trained weights: safetensors files with a YAML card each, named ``MODEL.safetensors`` or ``MODEL+DEFENSE.safetensors``.

Further weights of the same model and defense, such as those of other seeds, have a label:
``MODEL+DEFENSE@LABEL.safetensors``. Weights that are not shipped can be kept in a folder named by the environment variable
``IQARENA_WEIGHTS``: specs name the label, not the folder.

Weights from other sources may also be PyTorch files, ``.pt``, ``.pth`` or ``.pkl``, of which only tensors are read.
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
    """Weights that are missing, damaged or of another network; the message gives the file and the remedy."""


def weight_file(model: str, defense: str = "none", folder: Path | None = None, label: str = "") -> Path:
    """Return the path of the weights of a model with a training defense, in the zoo or a folder, with an optional label."""
    stem = model if defense == "none" else f"{model}+{defense}"
    return (folder or ZOO) / (f"{stem}@{label}.safetensors" if label else f"{stem}.safetensors")


def chosen_file(weights: str, model: str, defense: str = "none") -> Path:
    """Resolve ``weights=``: empty for the file of the zoo, a label of a file there or in ``IQARENA_WEIGHTS``, or a path."""
    if weights and (Path(weights).name != weights or Path(weights).suffix):
        return Path(weights)
    shipped, folder = weight_file(model, defense, label=weights), os.environ.get("IQARENA_WEIGHTS")
    return weight_file(model, defense, Path(folder), weights) if weights and folder and not shipped.is_file() else shipped


def card_of(path: Path) -> dict[str, Any]:
    """Read the card of a weight file; empty if there is none."""
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
    """Compute the hash of a weight file.

    Raises:
        WeightsError: if it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror}); train with `iqarena train` or name another file"
        ) from None


def state_sha256(module: nn.Module) -> str:
    """Compute a hash of the names and values of all weights of a module, independent of their source."""
    sha256 = hashlib.sha256()
    for key, value in module.state_dict().items():
        sha256.update(key.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def load_weights(module: nn.Module, path: Path) -> str:
    """Load weights into a module, and return their sha256.

    Args:
        module: the module.
        path: a safetensors file, or a ``.pt``, ``.pth`` or ``.pkl`` file of PyTorch with a state dict, alone or in a
            checkpoint with a single one; a leading ``module.`` of parallel training is removed.

    Raises:
        WeightsError: if the file is missing, has another format, holds code, differs from its card or does not match.
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
    """Read the state dict of a weight file; see `load_weights` for the supported formats.

    Raises:
        WeightsError: if the file is missing, has another format or holds code.
    """
    sha256_of(path)  # check that the file can be read
    try:
        return _pytorch_file(path) if path.suffix in PYTORCH else load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error})") from None


def _pytorch_file(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict of a PyTorch file.

    Raises:
        WeightsError: if it cannot be read, or not without executing code.
    """
    # for this old format, torch < 2.6 runs code even with weights_only=True (CVE-2025-32434); newer versions refuse it too
    if tarfile.is_tarfile(path):
        raise WeightsError(f"{path}: an archive in an old format, which may hold code; save its state dict as safetensors")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise WeightsError(f"{path}: refused, not tensors alone ({reason}); save its state dict as safetensors") from None
    except Exception as error:  # damaged files raise many types of exceptions
        raise WeightsError(f"{path}: not a weight file of PyTorch ({' '.join(str(error).split())[:200]})") from None
    checkpoint = loaded if isinstance(loaded, Mapping) else {}
    states = [inner for inner in (checkpoint, *checkpoint.values()) if _is_state(inner)]
    if len(states) != 1:
        keys = ", ".join(map(str, list(checkpoint)[:8]))
        raise WeightsError(f"{path}: holds {len(states)} state dicts ({keys or type(loaded).__name__}); save the one alone")
    state = dict(states[0])
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(inner, torch.Tensor) for inner in value.values())


def save_weights(module: nn.Module, path: Path, card: dict[str, Any]) -> None:
    """Write weights and card atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, part)
    card = card | {"sha256": sha256_of(part), "parameters": sum(p.numel() for p in module.parameters())}
    part.replace(path)
    card_part = path.with_suffix(".yaml.part")
    card_part.write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110))
    card_part.replace(path.with_suffix(".yaml"))
