"""The hash of a plugin's code, which is part of every cell's id."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from functools import cache
from pathlib import Path

OWN = ("iqarena.attacks", "iqarena.defenses", "iqarena.models")
"""Packages whose modules are hashed if a plugin's modules import them."""

APART = (
    "iqarena.attacks.base",
    "iqarena.defenses.base",
    "iqarena.models.base",
    "iqarena.models.zoo",
    "iqarena.defenses.training.loop",
)
"""Modules that are not hashed: the base classes, which `iqarena.bench.cells.PROTOCOL` covers, and code that is used only in
training, since the weights themselves are hashed."""

_ROOT = "iqarena."
"""Prefix of module names that is removed before hashing, so the name under which packages are imported does not matter."""

_FOREIGN = ("builtins", "abc", "typing", "torch")


_ELSEWHERE: dict[type, str] = {}
"""The hashes of classes that stand in for code that this process has not loaded."""


def set_source_hash(cls: type, value: str) -> None:
    """Set the hash of a class that stands in for code that this process has not loaded."""
    _ELSEWHERE[cls] = value


def source_hash(thing: object) -> str:
    """Return the hash of the code of an object: the modules of its class and its base classes, and their imports from `OWN`.

    Comments, docstrings and formatting do not matter. Other libraries are not hashed; a record has their versions.
    """
    if type(thing) in _ELSEWHERE:
        return _ELSEWHERE[type(thing)]
    found = [cls.__module__ for part in (thing, *getattr(thing, "links", ())) for cls in type(part).__mro__]
    modules = [name for name in dict.fromkeys(found) if name.partition(".")[0] not in _FOREIGN and name not in APART]
    return "-".join(_module_hash(name) for name in modules)


@cache
def _module_hash(module: str) -> str:
    """Return the hash of a module and of the modules of `OWN` that it imports, directly or indirectly."""
    reached, new = {}, [module]
    while new:
        name = new.pop()
        if name not in reached and name not in APART:
            reached[name], imports = _read(name)
            new += imports
    return hashlib.sha256(" ".join(reached[name] for name in sorted(reached)).encode()).hexdigest()[:16]


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """Return the hash of a module's code, and the modules of `OWN` that it imports; loaded modules do not change."""
    code, named = _hash_of_tree(_tree(module))
    follows = _is_own if module.startswith(_ROOT) else lambda name: _is_own(name) or is_user_code(name)
    return code, tuple(name for name in dict.fromkeys(named) if follows(name) and _is_module(name))


def _is_own(name: str) -> bool:
    return f"{name}.".startswith(tuple(f"{package}." for package in OWN))


@cache
def is_user_code(module: str) -> bool:
    """Check whether a module is neither Python's, nor of an installed package, nor of this project.

    Such modules are helpers that lie beside a plugin's file, a script, or what was typed into a notebook.
    """
    if module == "__main__":  # also where a tool runs the caller's code, as `python -m pytest` and a notebook's kernel do
        return True
    if module.partition(".")[0] in ("iqarena", *_FOREIGN, *sys.stdlib_module_names):
        return False
    try:
        loaded = sys.modules.get(module)
        spec = None if loaded is not None else importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    file = getattr(loaded, "__file__", None) if loaded is not None else getattr(spec, "origin", None)
    if file is None:  # a module that was made by exec; what cannot be found is nobody's
        return loaded is not None
    return not any(Path(file).resolve().is_relative_to(folder) for folder in _installed_folders())


@cache
def _installed_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple(Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _hash_of_tree(tree: ast.Module) -> tuple[str, list[str]]:
    """Return the hash of a syntax tree, which is modified, and the dotted names of everything that it may import."""
    named = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            node.module = node.module.removeprefix(_ROOT)
        elif isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
            for alias in node.names:
                alias.name = alias.name.removeprefix(_ROOT)
        for statements in (value for _, value in ast.iter_fields(node) if isinstance(value, list)):
            statements[:] = [statement for statement in statements if not _is_text(statement)]
    return hashlib.sha256(_plain(tree).encode()).hexdigest(), named


def _is_text(statement: object) -> bool:
    """Check whether a statement is a docstring or another text, on which no number depends."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


@cache
def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # the name of an object in a module
        return False


def _tree(module: str) -> ast.Module:
    loaded = sys.modules.get(module)
    try:
        if loaded is not None:
            return ast.parse(inspect.getsource(loaded))
        spec = importlib.util.find_spec(module)
        get_source = getattr(spec and spec.loader, "get_source", None)
        return ast.parse(get_source(module) or "") if get_source else ast.Module([], [])
    except (OSError, TypeError):
        return ast.Module([], [])


def _plain(node: object) -> str:
    """Format a syntax tree without empty fields, so the text is the same in all versions of Python."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return f"{type(node).__name__}({','.join(f'{name}={_plain(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_plain, node))}]"
    return repr(node)
