"""The state of the process that numbers depend on: settings of torch and NumPy, and the names in loaded modules.

It is read before a plugin runs and put back afterwards.
"""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as torch_module

from iqarena.models.base import ModelInfo

_DEVICES = ("cpu", "cuda")
"""Kinds of devices whose autocast is put back."""

_PRECISIONS = ("", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn", "cuda.matmul", "cudnn.conv", "cudnn.rnn")
"""Parts of `torch.backends` that have a precision of float32 arithmetic, in newer versions of torch."""

_GLOBAL_HOOKS = tuple(
    name for name in vars(torch_module) if name.startswith("_global_") and name.endswith(("hooks", "kwargs"))
)


def _precision(part: str) -> Any:
    """Return a part of `torch.backends`; None where this torch has no such part."""
    found: Any = torch.backends
    for name in filter(None, part.split(".")):
        found = getattr(found, name, None)
    return found if hasattr(found, "fp32_precision") else None


def _read_precisions() -> tuple[str | None, dict[str, str]]:
    """Return the precision of matrix products as older versions of torch know it, and that of every library."""
    parts = {part: str(found.fp32_precision) for part in _PRECISIONS if (found := _precision(part)) is not None}
    try:
        return torch.get_float32_matmul_precision(), parts
    except RuntimeError:  # precisions were set that the older function cannot express
        return None, parts


def _write_precisions(precisions: tuple[str | None, dict[str, str]]) -> None:
    if precisions[0] is not None:
        torch.set_float32_matmul_precision(precisions[0])
    for _ in range(2):  # the precision of all may change those of the parts
        for part, precision in precisions[1].items():
            if _precision(part).fp32_precision != precision:
                _precision(part).fp32_precision = precision


def _write_device(device: torch.device) -> None:
    torch.set_default_device(None if device == torch.device("cpu") else device)  # torch is slower with a default that is set


def _read_autocast() -> list[tuple[str, bool, torch.dtype]]:
    return [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _DEVICES]


def _write_autocast(states: list[tuple[str, bool, torch.dtype]]) -> None:
    for kind, enabled, dtype in states:
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)
    torch.clear_autocast_cache()


def _read_cudnn() -> tuple[bool, bool, bool]:
    return torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _write_cudnn(flags: tuple[bool, bool, bool]) -> None:
    torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = flags


def _read_deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _flushes() -> bool:
    """Check whether numbers below the normal range count as zero; torch has no function that says so."""
    return not bool(torch.full((1,), 1e-40, dtype=torch.float32, device="cpu").mul(1) > 0)


def _read_hooks() -> list[dict[Any, Any]]:
    return [dict(getattr(torch_module, name)) for name in _GLOBAL_HOOKS]


def _write_hooks(hooks: list[dict[Any, Any]]) -> None:
    for name, before in zip(_GLOBAL_HOOKS, hooks, strict=True):
        now = getattr(torch_module, name)
        now.clear()
        now.update(before)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, _write_device),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        _read_deterministic,
        lambda modes: torch.use_deterministic_algorithms(modes[0], warn_only=modes[1]),
    ),
    "precision of float32": (_read_precisions, _write_precisions),
    "autocast": (_read_autocast, _write_autocast),
    "cuDNN": (_read_cudnn, _write_cudnn),
    "detection of anomalies": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "tiny numbers": (_flushes, torch.set_flush_denormal),
    "hooks on all modules": (_read_hooks, _write_hooks),
    "errors of NumPy": (np.geterr, lambda modes: np.seterr(**modes)),
}
"""Getter and setter of each global setting."""


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put the settings of torch and NumPy back when the context ends, with the modes of gradients and of inference.

    Inside the context gradients are on, unless inference mode is.
    """
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    try:
        with torch.inference_mode(torch.is_inference_mode_enabled()):  # its end puts both modes back
            yield
    finally:
        for name, (read, write) in _SETTINGS.items():
            if read() != before[name]:
                write(before[name])


@contextmanager
def settled() -> Iterator[None]:
    """Give the process the settings under which scores are defined, whatever the caller has set, and put his back.

    The default dtype is float32 and the default device the CPU; gradients are on, inference mode and autocast are off, and
    float32 arithmetic has its full precision.
    """
    with settings_kept(), torch.inference_mode(False):
        if torch.get_default_dtype() != torch.float32:
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device() != torch.device("cpu"):
            torch.set_default_device(None)
        for kind in _DEVICES:
            if torch.is_autocast_enabled(kind):
                torch.set_autocast_enabled(kind, False)
        _full_precision()
        yield


def _full_precision() -> None:
    """Set float32 arithmetic to full precision; convolutions of cuDNN keep what torch sets for them."""
    if _read_precisions()[0] != "highest":
        torch.set_float32_matmul_precision("highest")
    if (whole := _precision("")) is not None and whole.fp32_precision != "none":
        whole.fp32_precision = "none"
    for part in ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn", "cuda.matmul"):
        if (found := _precision(part)) is not None and found.fp32_precision not in ("none", "ieee"):
            found.fp32_precision = "ieee"


_WATCHED = (FunctionType, BuiltinFunctionType, type, ModuleType, staticmethod, classmethod, property, ModelInfo)
"""Types of the values that are watched. Other values, such as caches and counters, are changed rightly all the time."""

_OPEN = ("torch.nn.", "iqarena")
"""Beginnings of the names of modules whose classes are watched as well; so is `torch.Tensor`."""

_NEAR = {"torch", "torch.autograd", "torch.functional", "numpy", "pandas", "json", "math", "os", "pathlib", "random", "sys"}
"""Modules that are compared after each batch, beside those whose classes are watched; all others once a cell."""

_MISSING = object()


class Namespaces:
    """The names of all loaded modules, and of the classes of torch's layers and of this project, as they are now.

    The dictionaries of 3,500 modules have 140,000 entries: a copy takes 5 ms and a comparison 4 ms, three times that on a
    busy machine. The comparison of the near ones takes a tenth of it.
    """

    def __init__(self) -> None:
        self._builtins = dict(vars(builtins))
        self._modules = dict(sys.modules)
        self._names = {name: _copied(vars(module)) for name, module in self._modules.items() if _has_names(name, module)}
        self._near = [name for name in self._names if name in _NEAR or name.startswith(_OPEN)]
        opened = [module for name, module in self._modules.items() if name.startswith(_OPEN)]
        classes = {
            value
            for module in opened
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__.startswith(_OPEN)
        }
        self._classes = {cls: _copied(vars(cls)) for cls in {torch.Tensor, *classes}}

    def put_back(self, near: bool = False) -> list[str]:
        """Put back what was deleted or replaced since, only in the near modules if so asked; return its dotted names."""
        changed = self._put_back_builtins()
        grown = len(sys.modules) > len(self._modules)
        for name, module in self._modules.items():
            if name not in sys.modules:
                sys.modules[name] = module
                changed.append(name)
        for name in self._near if near else self._names:
            before = self._names[name]
            changed += _put_back(self._modules[name], name, before, grown)
        for cls, before in self._classes.items():
            changed += _put_back(cls, f"{cls.__module__}.{cls.__qualname__}", before, grown)
        return changed

    def _put_back_builtins(self) -> list[str]:
        """Put back the built-in functions, with syntax alone, since no function may be left."""
        now, changed = builtins.__dict__, []
        for name in self._builtins:
            before = self._builtins[name]
            if name != "_" and (name not in now or now[name] is not before):
                now[name] = before
                changed += [f"builtins.{name}"]
        return changed


def _has_names(name: str, module: object) -> bool:
    """Check whether a module is watched: the script of the user and odd objects in `sys.modules` are not."""
    return isinstance(module, ModuleType) and name not in ("__main__", "builtins")


def _copied(names: Mapping[str, Any]) -> dict[str, Any]:
    return dict(names)


def _put_back(owner: Any, title: str, before: dict[str, Any], grown: bool) -> list[str]:
    """Put back the watched names of a module or a class; return the dotted names of those that had changed."""
    now = vars(owner)
    if len(now) == len(before) and not any(map(operator.is_not, now.values(), before.values())):
        return []
    changed = list(_changed(now, before, title, grown))
    for name in changed:
        setattr(owner, name, before[name])
    return [f"{title}.{name}" for name in changed]


def _changed(now: Mapping[str, Any], before: dict[str, Any], title: str, grown: bool) -> Iterator[str]:
    """Yield the watched names that were deleted or replaced.

    A library that is imported for the first time may replace functions of its own package, as torch's compiler does.
    """
    package = title.partition(".")[0]
    for name, value in before.items():
        current = now.get(name, _MISSING)
        if current is value or not isinstance(value, _WATCHED):
            continue
        origin = current.__name__ if isinstance(current, ModuleType) else getattr(current, "__module__", None)
        if not (grown and isinstance(origin, str) and origin.partition(".")[0] == package):
            yield name
