"""Which code makes a plugin what it is, as a hash that is part of every cell's id."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from functools import cache

OWN = ("iqarena.attacks", "iqarena.defenses", "iqarena.models")
"""Packages whose modules count wherever a plugin's modules import them."""

APART = (
    "iqarena.attacks.base",
    "iqarena.defenses.base",
    "iqarena.models.base",
    "iqarena.models.zoo",
    "iqarena.defenses.training.loop",
)
"""The contracts, which `iqarena.bench.cells.PROTOCOL` stands for, and what only trains: weights are hashed themselves."""

_FOREIGN = ("builtins", "abc", "typing", "torch")


def source_hash(thing: object) -> str:
    """Hash of the code of an object: the modules of its class and of its bases, and all that these import of `OWN`.

    Comments, docstrings and layout do not matter; nor does what other libraries bring, whose versions a record names.
    """
    classes = [made.__module__ for part in (thing, *getattr(thing, "links", ())) for made in type(part).__mro__]
    own = [module for module in dict.fromkeys(classes) if module.partition(".")[0] not in _FOREIGN and module not in APART]
    return "-".join(_module_hash(module) for module in own)


@cache
def _module_hash(module: str) -> str:
    """Of a module and of those of `OWN` that it imports, straight or through others."""
    reached, new = {}, [module]
    while new:
        name = new.pop()
        if name not in reached and name not in APART:
            reached[name], imports = _read(name)
            new += imports
    return hashlib.sha256(" ".join(reached[name] for name in sorted(reached)).encode()).hexdigest()[:16]


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a module's own code, and the modules of `OWN` that it names; a loaded module does not change."""
    tree, named = _tree(module), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body.pop(0)
    own = tuple(name for name in named if name.partition(".")[0] in OWN and _is_module(name))
    return hashlib.sha256(_plain(tree).encode()).hexdigest(), own


@cache
def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # of a name in a module, which is no package
        return False


def _tree(module: str) -> ast.Module:
    found = sys.modules.get(module)
    try:
        if found is not None:
            return ast.parse(inspect.getsource(found))
        spec = importlib.util.find_spec(module)
        get_source = getattr(spec and spec.loader, "get_source", None)
        return ast.parse(get_source(module) or "") if get_source else ast.Module([], [])
    except (OSError, TypeError):
        return ast.Module([], [])


def _plain(node: object) -> str:
    """A syntax tree in words that are the same in all versions of Python: what is empty or left out is not told."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({','.join(f'{name}={_plain(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_plain, node))}]"
    return repr(node)
