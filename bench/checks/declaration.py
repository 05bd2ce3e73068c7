"""What attacks and defenses say of themselves: their name, their parameters, their paper."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from iqarena.bench.inference.finding import Finding

_NAME = re.compile(r"[a-z0-9]+([-+.][a-z0-9]+)*|[a-z]+:\w*")
"""Words of small letters and digits, joined by dashes; a bridge has a prefix and another library's name."""

_ATTRIBUTE = re.compile(r"^ {4,}(\w+(?:, \w+)*): ", re.MULTILINE)


def declared(plugin: Any, paper_wanted: bool = True) -> list[Finding]:
    """Findings on the class of a plugin that has been built.

    Args:
        plugin: an attack or a defense.
        paper_wanted: whether it comes from somewhere; a control does not.
    """
    made = type(plugin)
    return [_named(plugin), _parameters(made), _described(made), *([_paper(plugin)] if paper_wanted else [])]


def _named(plugin: Any) -> Finding:
    ok = isinstance(plugin.name, str) and _NAME.fullmatch(plugin.name) is not None
    return Finding("name", ok, repr(plugin.name), "give it a name of small letters, digits and dashes, such as mi-fgsm")


def _parameters(made: type[Any]) -> Finding:
    advice = "decorate the class with @dataclass(frozen=True), and give every parameter a default"
    if not is_dataclass(made) or "__dataclass_params__" not in vars(made):
        return Finding("parameters", False, f"{made.__name__} is no dataclass of its own", advice)
    frozen = bool(vars(made)["__dataclass_params__"].frozen)
    open_ = [f.name for f in fields(made) if f.init and f.default is MISSING and f.default_factory is MISSING]
    told = f"{len(fields(made))}, all with defaults" if not open_ else f"no default for {', '.join(open_)}"
    return Finding("parameters", frozen and not open_, told if frozen else "they can be changed after it is built", advice)


def _described(made: type[Any]) -> Finding:
    """A class says what it is; each parameter is described there or where it is inherited from."""
    own = inspect.cleandoc(vars(made).get("__doc__") or "")
    if not own or own.startswith(f"{made.__name__}("):  # what dataclass writes where there is none
        return Finding("docstring", False, "none", "say in a sentence what it does, then its parameters under Attributes:")
    told = {
        name
        for each in made.__mro__
        for names in _ATTRIBUTE.findall((each.__doc__ or "").partition("Attributes:")[2].partition("Class attributes:")[0])
        for name in names.split(", ")
    }
    missing = [f.name for f in fields(made) if f.init and f.name not in told] if is_dataclass(made) else []
    seen = own.splitlines()[0] if not missing else f"nothing about {', '.join(missing)}"
    return Finding("docstring", not missing, seen, "describe every parameter under Attributes:, with its unit and range")


def _paper(plugin: Any) -> Finding:
    return Finding(
        "paper",
        bool(plugin.paper.strip()),
        plugin.paper or "none",
        "set paper to a link; for an idea that is published nowhere, to the words that say so",
    )
