"""Names in loaded modules: functions, classes and modules that a plugin deleted or replaced are noticed and put back."""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch

from iqarena.models.base import ModelInfo

_WATCHED = (FunctionType, BuiltinFunctionType, type, ModuleType, staticmethod, classmethod, property, ModelInfo)
"""Types of the values that are watched. Other values, such as caches and counters, are changed rightly all the time."""

_OPEN = ("torch.nn.", "iqarena")
"""Beginnings of the names of modules whose classes are watched as well; so is `torch.Tensor`."""

_MISSING = object()


class Namespaces:
    """The names of all loaded modules, and of the classes of torch's layers and of this project, as they are now.

    A copy of the dictionaries takes about 5 ms, and a comparison 3 ms.
    """

    def __init__(self) -> None:
        self._builtins = dict(vars(builtins))
        self._modules = dict(sys.modules)
        self._names = {name: _copied(vars(module)) for name, module in self._modules.items() if _has_names(name, module)}
        opened = [module for name, module in self._modules.items() if name.startswith(_OPEN)]
        classes = {
            value
            for module in opened
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__.startswith(_OPEN)
        }
        self._classes = {cls: _copied(vars(cls)) for cls in {torch.Tensor, *classes}}

    def put_back(self) -> list[str]:
        """Put back what was deleted or replaced since; return its dotted names."""
        changed = self._put_back_builtins()
        grown = len(sys.modules) > len(self._modules)
        for name, module in self._modules.items():
            if name not in sys.modules:
                sys.modules[name] = module
                changed.append(name)
        for name, before in self._names.items():
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
