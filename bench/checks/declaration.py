"""Check the declaration of an attack or a defense: its name, parameters, docstring and paper."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from iqarena.bench.inference.finding import Finding

_NAME = re.compile(r"[a-z0-9]+([-+.][a-z0-9]+)*|[a-z]+:\w*")
"""Words of lower-case letters and digits, joined by dashes; a bridge has a prefix and the name in the other library."""

_ATTRIBUTE = re.compile(r"^ {4,}(\w+(?:, \w+)*): ", re.MULTILINE)


def declared(plugin: Any, paper_wanted: bool = True) -> list[Finding]:
    """Check the class of a built plugin.

    Args:
        plugin: an attack or a defense.
        paper_wanted: whether it must name a paper; a control need not.
    """
    cls = type(plugin)
    return [_name(plugin), _parameters(cls), _docstring(cls), *([_paper(plugin)] if paper_wanted else [])]


def _name(plugin: Any) -> Finding:
    ok = isinstance(plugin.name, str) and _NAME.fullmatch(plugin.name) is not None
    return Finding("name", ok, repr(plugin.name), "give it a name of small letters, digits and dashes, such as mi-fgsm")


def _parameters(cls: type[Any]) -> Finding:
    advice = "decorate the class with @dataclass(frozen=True), and give every parameter a default"
    if not is_dataclass(cls) or "__dataclass_params__" not in vars(cls):
        return Finding("parameters", False, f"{cls.__name__} is no dataclass of its own", advice)
    frozen = bool(vars(cls)["__dataclass_params__"].frozen)
    if not frozen:
        return Finding("parameters", False, "they can be changed after it is built", advice)
    required = [f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING]
    measured = f"no default for {', '.join(required)}" if required else f"{len(fields(cls))}, all with defaults"
    return Finding("parameters", not required, measured, advice)


def _docstring(cls: type[Any]) -> Finding:
    """Check that a class has a docstring and that each parameter is described there or in a base class."""
    docstring = inspect.cleandoc(vars(cls).get("__doc__") or "")
    if not docstring or docstring.startswith(f"{cls.__name__}("):  # the default docstring of a dataclass
        return Finding("docstring", False, "none", "say in a sentence what it does, then its parameters under Attributes:")
    described = {
        name
        for base in cls.__mro__
        for names in _ATTRIBUTE.findall((base.__doc__ or "").partition("Attributes:")[2].partition("Class attributes:")[0])
        for name in names.split(", ")
    }
    missing = [f.name for f in fields(cls) if f.init and f.name not in described] if is_dataclass(cls) else []
    measured = docstring.splitlines()[0] if not missing else f"nothing about {', '.join(missing)}"
    return Finding("docstring", not missing, measured, "describe every parameter under Attributes:, with its unit and range")


def _paper(plugin: Any) -> Finding:
    return Finding(
        "paper",
        bool(plugin.paper.strip()),
        plugin.paper or "none",
        "set paper to a link; for an idea that is published nowhere, to the words that say so",
    )
