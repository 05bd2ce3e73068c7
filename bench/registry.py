"""Finds models, defenses and attacks by name.

A thing is registered by being there: a class with a `name` in a module of the packages ``models``, ``defenses`` or
``attacks``, or behind an entry point of the group ``iqarena.models``, ``iqarena.defenses`` or ``iqarena.attacks``, or
in a file named as ``file:path.py:Class``. What cannot be imported stays visible, with its error. (Data sets are in
``iqarena.bench.datasets``, and behind ``iqarena.datasets``.)
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from iqarena.attacks.base import Attack
from iqarena.bench.errors import UserError, describe, first_message
from iqarena.defenses.base import Defense
from iqarena.defenses.chain import Chain
from iqarena.models.base import QualityModel

T = TypeVar("T")

_SPEC = re.compile(r"(?P<name>[^\[\]]+?)(?:\[(?P<parameters>.*)\])?", re.DOTALL)
_LINK = re.compile(r"\+(?![^\[]*\])(?!(?:(?!file:).)*\.py:)")
"""The + between the links of a chain, not one in brackets or in a file's path."""

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""Of what is new in a registry."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered name: its class, or the error that kept it from loading."""

    name: str
    made: type[T] | None
    error: str = ""


def links(spec: str) -> list[str]:
    """The specs that a chain is made of; one where it is none.

    Example:
        >>> links("jpeg[quality=30]+flip")
        ['jpeg[quality=30]', 'flip']
    """
    return _LINK.split(spec)


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """``pgd[steps=40,restarts=5]``, one link, to its name and parameters; values are read as YAML scalars.

    Raises:
        UserError: where brackets or ``key=value`` pairs are broken.

    Example:
        >>> parse_spec("pgd[steps=40,restarts=5]")
        ('pgd', {'steps': 40, 'restarts': 5})
    """
    name, parameters = _parsed(spec)
    return name, dict(parameters)


@functools.cache
def _parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """A plan of thousands of cells is written in a few specs."""
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise UserError(f"{spec!r} is not of the form name or name[parameter=value,…]")
    parameters: dict[str, Any] = {}
    for pair in filter(None, (match["parameters"] or "").split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"{spec!r}: {pair!r} is not parameter=value")
        try:
            parameters[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"{spec!r}: {value!r} is not a value") from None
    return match["name"], parameters


def spec_of(name: str, parameters: Mapping[str, Any]) -> str:
    """The other way round; parameters that are empty are left out.

    Example:
        >>> spec_of("pgd", {"steps": 40, "restarts": 5})
        'pgd[steps=40,restarts=5]'
    """
    pairs = ",".join(f"{key}={value}" for key, value in parameters.items() if value != "")
    return f"{name}[{pairs}]" if pairs else name


def nearest(word: str, known: list[str]) -> str:
    """A hint for an unknown word.

    Example:
        >>> nearest("pdg", ["pgd", "fgsm"])
        'did you mean pgd?'
    """
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(sorted(known))}"


def class_in_file(name: str) -> type[Any] | None:
    """The class named by ``file:path.py:Class``; None where the file holds no such class.

    Raises:
        UserError: where there is no such file, or it cannot be imported.
    """
    path, _, class_name = name.removeprefix("file:").rpartition(":")
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise UserError(f"{name!r}: give it as file:path.py:Class, with a file that exists")
    module_name = f"iqarena_file_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if module_name not in sys.modules:
        loading = importlib.util.spec_from_file_location(module_name, file)
        assert loading is not None
        assert loading.loader is not None
        module = importlib.util.module_from_spec(loading)
        sys.modules[module_name] = module
        try:
            loading.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            raise UserError(f"{file}: cannot be imported ({describe(error)})") from None
    made = vars(sys.modules[module_name]).get(class_name)
    return made if inspect.isclass(made) else None


def by_name(kind: str, entries: Iterable[Entry[T]]) -> dict[str, Entry[T]]:
    """Entries by their names; a second owner of a name is an error entry, never a silent winner."""
    found: dict[str, Entry[T]] = {}
    for entry in entries:
        clash = entry.name in found and found[entry.name].made is not entry.made
        found[entry.name] = Entry(entry.name, None, f"two {kind}s are called {entry.name}; rename one") if clash else entry
    return found


def installed(group: str, base: type[T]) -> Iterator[Entry[T]]:
    """What other packages offer in a group of entry points; what cannot be loaded comes with its error."""
    for point in entry_points(group=group):
        try:
            made = point.load()
            if not (inspect.isclass(made) and issubclass(made, base)):
                raise TypeError(f"{point.value} is no {base.__name__}")
            yield Entry(point.name, made)
        except (Exception, SystemExit) as error:
            yield Entry(point.name, None, describe(error))


class Registry(Generic[T]):
    """All classes of one kind; `chained` makes one object of the links of ``a+b``, where that has a meaning."""

    def __init__(self, kind: str, package: str, base: type[T], chained: Callable[[tuple[T, ...]], T] | None = None) -> None:
        self.kind, self.package, self.base, self.chained = kind, package, base, chained
        self._built: dict[tuple[type[T], str], T] = {}  # what is frozen, as it is asked for at every cell

    @cached_property
    def entries(self) -> dict[str, Entry[T]]:
        """Every registered name."""
        return by_name(self.kind, [*self._built_in(), *installed(f"iqarena.{self.package}", self.base)])

    def _built_in(self) -> Iterator[Entry[T]]:
        package = importlib.import_module(f"iqarena.{self.package}")
        for module_info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: None):
            try:
                module = importlib.import_module(module_info.name)
            except (Exception, SystemExit) as error:  # a broken plugin must not take the others with it
                yield Entry(module_info.name.rpartition(".")[2].replace("_", "-"), None, describe(error))
                continue
            yield from (Entry(_name(made), made) for made in self._classes(module))

    def _classes(self, module: ModuleType) -> list[type[T]]:
        return [
            made
            for made in vars(module).values()
            if inspect.isclass(made)
            and issubclass(made, self.base)
            and made.__module__ == module.__name__
            and not inspect.isabstract(made)
            and _name(made)
        ]

    def entry(self, name: str) -> Entry[T] | None:
        """The entry of a name, or of the bridge that a ``prefix:Class`` belongs to."""
        return self.entries.get(name) or self.entries.get(name.partition(":")[0] + ":")

    def find(self, name: str) -> type[T]:
        """The class behind a name, a bridge's ``prefix:Class`` or a file's ``file:path.py:Class``.

        Raises:
            UserError: for an unknown or broken one.
        """
        if name.startswith("file:") and name not in self.entries:
            return self._from_file(name)
        entry = self.entry(name)
        if entry is None:
            raise UserError(f"unknown {self.kind} {name!r}; {nearest(name, self.names())}")
        if entry.made is None:
            raise UserError(f"{self.kind} {name!r} is broken: {entry.error}")
        return entry.made

    def _from_file(self, name: str) -> type[T]:
        made = class_in_file(name)
        if made is None or not issubclass(made, self.base):
            file, _, class_name = name.removeprefix("file:").rpartition(":")
            raise UserError(f"{file}: holds no {self.base.__name__} called {class_name!r}")
        return made

    def add(self, name: str, made: type[T]) -> None:
        """Let a name stand for a class in this process, whatever it stood for before."""
        self.entries[name] = Entry(name, made)

    def names(self) -> list[str]:
        """All names that can be asked for, bridges by each of their variants, sorted."""
        out = []
        for entry in self.entries.values():
            variants = getattr(entry.made, "variants", None)
            out += [f"{entry.name}{variant}" for variant in variants()] if variants else [entry.name]
        return sorted(out)

    def build(self, spec: str) -> T:
        """An object from ``name`` or ``name[parameter=value,…]``, or a chain of them.

        Raises:
            UserError: for unknown names or parameters, or values of the wrong type.
        """
        if self.chained and len(parts := links(spec)) > 1:
            try:
                return self.chained(tuple(map(self.build, parts)))
            except ValueError as error:
                raise UserError(f"{self.kind} {spec!r}: {error}") from None
        name, parameters = parse_spec(spec)
        made = self.find(name)
        if (made, spec) in self._built:
            return self._built[made, spec]
        if not is_dataclass(made):
            if parameters:
                raise UserError(f"{self.kind} {name!r} takes no parameters")
            return self._made(spec, made)
        if ":" in name and not name.startswith("file:"):
            parameters = {"variant": name.partition(":")[2], "parameters": parameters}
        known = [f.name for f in fields(made) if f.init]
        for key in parameters:
            if key not in known:
                raise UserError(f"{self.kind} {name!r} has no parameter {key!r}; {nearest(key, known)}")
        try:
            built: T = TypeAdapter(made).validate_python(parameters)
        except ValidationError as error:
            where, words = first_message(error)
            raise UserError(f"{self.kind} {spec!r}: {where or name}: {words}") from None
        if made.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            self._built[made, spec] = built
        return built

    def _made(self, spec: str, made: type[T]) -> T:
        try:
            return made()
        except Exception as error:
            raise UserError(f"{self.kind} {spec!r} cannot be made ({describe(error)})") from None


def _name(made: type[Any]) -> str:
    """The registry name of a class: its own `name`, or for a model its `info.name`."""
    own = vars(made).get("name") or getattr(vars(made).get("info"), "name", "")
    return str(own)


MODELS: Registry[QualityModel] = Registry("model", "models", QualityModel)  # type: ignore[type-abstract]
DEFENSES: Registry[Defense] = Registry("defense", "defenses", Defense, Chain)  # type: ignore[type-abstract]
ATTACKS: Registry[Attack] = Registry("attack", "attacks", Attack)  # type: ignore[type-abstract]
REGISTRIES: dict[str, Registry[Any]] = {"model": MODELS, "attack": ATTACKS, "defense": DEFENSES}
"""By the word for what is in them."""
