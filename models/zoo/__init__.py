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
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from iqarena.models.zoo.plain_yaml import read_yaml

ZOO = Path(__file__).parent
PYTORCH = (".pt", ".pth", ".pkl")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int16, torch.int32, torch.int64)
_USUAL = (1e-12, 1e12)
"""Between which magnitudes nearly all weights of any network are."""


class WeightsError(Exception):
    """Weights that are missing, damaged or of another network; the message gives the file and the remedy."""


def weight_file(model: str, defense: str = "none", folder: Path | None = None, label: str = "") -> Path:
    """Return the path of the weights of a model with a training defense, in the zoo or a folder, with an optional label."""
    stem = model if defense == "none" else f"{model}+{defense}"
    return (folder or ZOO) / (f"{stem}@{label}.safetensors" if label else f"{stem}.safetensors")


def chosen_file(weights: str, model: str, defense: str = "none") -> Path:
    """Resolve ``weights=``: empty for the file of the zoo, a label of a file there or in ``IQARENA_WEIGHTS``, or a path."""
    if weights and (Path(weights).name != weights or Path(weights).suffix):
        return Path(weights).expanduser() if weights.startswith("~/") else Path(weights)
    shipped, folder = weight_file(model, defense, label=weights), os.environ.get("IQARENA_WEIGHTS")
    return weight_file(model, defense, Path(folder), weights) if weights and folder and not shipped.is_file() else shipped


def card_of(path: Path) -> dict[str, Any]:
    """Read the card of a weight file; empty if there is none."""
    card = path.with_suffix(".yaml")
    try:
        loaded = read_yaml(card.read_bytes())[1] if card.is_file() else {}
    except (OSError, yaml.YAMLError):
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
        if path.exists() and not path.is_file():
            raise OSError(0, "not a file")  # a pipe would never end
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise WeightsError(
            f"{path}: cannot be read ({getattr(error, 'strerror', error)}); train with `iqarena train` or name another file"
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
        WeightsError: if the file is missing, has another format, holds code, differs from its card or does not match: other
            names, shapes or kinds of numbers, and numbers that are not finite.
    """
    sha256 = sha256_of(path)
    if (expected := card_of(path).get("sha256", sha256)) != sha256:
        raise WeightsError(f"{path}: sha256 {sha256[:12]}… is not the {expected[:12]}… of its card; restore the file")
    state = read_state(path)
    _check_numbers(module, state, path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: not the weights of {type(module).__name__} ({str(error).splitlines()[-1].strip()})"
        ) from None
    return sha256


def _check_numbers(module: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check that weights are finite numbers of the kind that the module has; torch would convert others in silence.

    Raises:
        WeightsError: for the first that is not.
    """
    for name, own in module.state_dict().items():
        if not isinstance(own, torch.Tensor) or (new := state.get(name)) is None:
            continue
        if _kind(new) != _kind(own):
            raise WeightsError(f"{path}: {name} is {_dtype(new)}, and the network has {_dtype(own)}; save it as that")
        # a mask may have infinities, which the network has from its constructor
        finite = new.isfinite() if new.shape != own.shape else new.isfinite() | (new == own.cpu())
        if wrong := int((~finite).sum()):
            raise WeightsError(f"{path}: {name} has {wrong:,} numbers that are not finite; restore or train it again")


def _kind(tensor: torch.Tensor) -> str:
    if tensor.dtype in _FLOATS:
        return "floats"
    return "integers" if tensor.dtype in _INTEGERS else _dtype(tensor)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read the state dict of a weight file; see `load_weights` for the supported formats.

    Raises:
        WeightsError: if the file is missing, has another format or holds code.
    """
    sha256_of(path)  # check that the file can be read
    try:
        state = _pytorch_file(path) if path.suffix in PYTORCH else load_file(path)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:  # an unknown type of numbers is a KeyError
        raise WeightsError(f"{path}: not a safetensors file ({' '.join(str(error).split())[:200]})") from None
    if _is_swapped(state):
        raise WeightsError(f"{path}: its numbers are in the wrong byte order; save them as little-endian")
    return state


def _is_swapped(state: Mapping[str, torch.Tensor]) -> bool:
    """Check whether numbers have their bytes in the wrong order: they are of odd magnitudes, and not once swapped."""
    floats = [value for value in state.values() if value.dtype in _FLOATS]
    if not floats or _usual(floats) > 0.9:
        return False
    return _usual([_swapped(value) for value in floats]) > 0.99


def _swapped(value: torch.Tensor) -> torch.Tensor:
    size = value.element_size()
    return value.reshape(-1).contiguous().view(torch.uint8).reshape(-1, size).flip(1).contiguous().view(value.dtype)


def _usual(values: Sequence[torch.Tensor]) -> float:
    """Return the fraction of numbers, without zeros, of a usual magnitude."""
    sizes = [value.double().abs().flatten() for value in values]
    usual = sum(int(((size >= _USUAL[0]) & (size <= _USUAL[1])).sum()) for size in sizes)
    return usual / max(sum(int((size != 0).sum()) for size in sizes), 1)


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
    if zipfile.is_zipfile(path) and (damaged := _damaged_member(path)):  # torch does not check this
        raise WeightsError(f"{path}: is damaged, {damaged} is not what was saved; restore it")
    checkpoint = loaded if isinstance(loaded, Mapping) else {}
    states = [inner for inner in (checkpoint, *checkpoint.values()) if _is_state(inner)]
    if len(states) != 1:
        keys = ", ".join(map(str, list(checkpoint)[:8]))
        raise WeightsError(f"{path}: holds {len(states)} state dicts ({keys or type(loaded).__name__}); save the one alone")
    state = dict(states[0])
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _damaged_member(path: Path) -> str:
    """Return the name of a member of a zip file that differs from its checksum; empty if there is none."""
    try:
        with zipfile.ZipFile(path) as members:
            return members.testzip() or ""
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        return "its list of members"


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
    card_part.write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")
    card_part.replace(path.with_suffix(".yaml"))
