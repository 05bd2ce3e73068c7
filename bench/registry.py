"""Registries of models, defenses and attacks by name.

Plugins are discovered, not declared: a plugin is a class with a `name` in a module of the packages ``models``, ``defenses``
or ``attacks``, or an entry point of the group ``iqarena.models``, ``iqarena.defenses`` or ``iqarena.attacks``, or a class in
a file, named as ``file:path.py:Class``. A plugin that cannot be imported stays listed, with its error. (Data sets are in
``iqarena.bench.datasets`` and the group ``iqarena.datasets``.)
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import math
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
from iqarena.bench.checkout import with_home
from iqarena.bench.errors import UserError, describe, first_message, printable
from iqarena.bench.process import asks_to_stop
from iqarena.defenses.base import Defense
from iqarena.defenses.chain import Chain
from iqarena.models.base import QualityModel
from iqarena.models.zoo.plain_yaml import read_yaml

T = TypeVar("T")

_SPEC = re.compile(r"(?P<name>[^\[\]]+?)(?:\[(?P<parameters>.*)\])?", re.DOTALL)
_FILE_SPEC = re.compile(r"(?P<name>[a-z]+:.+?\.(?:py(?::\w+)?|pt|ts|onnx))(?:\[(?P<parameters>[^\[\]]*)\])?", re.DOTALL)
"""A spec that names a file, in whose path brackets are letters like others; only what follows the path is parameters."""
_LINK = re.compile(r"\+(?![^\[]*\])(?!(?:(?!file:).)*\.py:)")
"""The + between the links of a chain, but not one in brackets or in the path of a file."""

MAX_SPEC = 4000
"""Letters of the longest spec."""

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""Pattern for the names of new plugins."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered name, with its class or with the error that occurred while loading it."""

    name: str
    cls: type[T] | None
    error: str = ""


def links(spec: str) -> list[str]:
    """Split a spec into the specs of its links; one spec if it is not a chain.

    Example:
        >>> links("jpeg[quality=30]+flip")
        ['jpeg[quality=30]', 'flip']
    """
    return _LINK.split(spec) if len(spec) <= MAX_SPEC else [spec]


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Parse the spec of one link, such as ``pgd[steps=40,restarts=5]``, into name and parameters, which are YAML scalars.

    Raises:
        UserError: if the brackets or the ``key=value`` pairs are malformed, or if a number is not finite or beyond 64 bits.

    Example:
        >>> parse_spec("pgd[steps=40,restarts=5]")
        ('pgd', {'steps': 40, 'restarts': 5})
    """
    name, parameters = _parsed(spec)
    return name, dict(parameters)


@functools.cache
def _parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """Parse a spec; cached, since a plan of thousands of cells has only a few specs."""
    name, texts = spec_texts(spec)
    parameters = {}
    for key, text in texts.items():
        parameters[key] = value = _yaml(spec, text)[1]
        try:
            usable = math.isfinite(float(value)) and abs(float(value)) < 2**63
        except (TypeError, ValueError):
            usable = True  # a word
        except OverflowError:
            usable = False
        if not usable:
            raise UserError(f"{_shown(spec)}: {key} must be finite and below 2^63, not {_shown(text)}")
    return name, parameters


def spec_texts(spec: str) -> tuple[str, dict[str, str]]:
    """Split the spec of one link into its name and its parameters as they are written.

    Raises:
        UserError: if the brackets or the ``key=value`` pairs are malformed.

    Example:
        >>> spec_texts("folder[image=007, mos='a b']")
        ('folder', {'image': '007', 'mos': "'a b'"})
    """
    text = spec.strip() if len(spec) <= MAX_SPEC else ""
    match = _FILE_SPEC.fullmatch(text) or _SPEC.fullmatch(text)
    if match is None:
        raise UserError(f"{_shown(spec)} is not of the form name or name[parameter=value,…]")
    texts: dict[str, str] = {}
    for pair in filter(str.strip, (match["parameters"] or "").split(",")):
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise UserError(f"{_shown(spec)}: {_shown(pair)} is not parameter=value")
        if key in texts:
            raise UserError(f"{_shown(spec)}: {key} is there twice")
        texts[key] = text
    return match["name"].strip(), texts


def spec_words(spec: str) -> dict[str, str]:
    """Return the parameters of a spec as text without quotes, where YAML would take some words for numbers or booleans.

    Raises:
        UserError: if the spec is malformed, or a value is no scalar of YAML.

    Example:
        >>> spec_words("folder[image=007, mos='a b',split=]")
        {'image': '007', 'mos': 'a b', 'split': ''}
    """
    words = {}
    for key, text in spec_texts(spec)[1].items():
        node, _ = _yaml(spec, text)
        if not isinstance(node, yaml.ScalarNode | None):
            raise UserError(f"{_shown(spec)}: {_shown(text)} is not a word; put it in quotes")
        words[key] = node.value if node is not None else ""
    return words


def _yaml(spec: str, text: str) -> tuple[yaml.Node | None, Any]:
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        raise UserError(f"{_shown(spec)}: {_shown(text)} is not a value; put it in quotes") from None


def _shown(text: str) -> str:
    return repr(printable(text, 200))


def spec_of(name: str, parameters: Mapping[str, Any]) -> str:
    """Format a name and parameters as a spec; empty parameters are omitted.

    Example:
        >>> spec_of("pgd", {"steps": 40, "restarts": 5})
        'pgd[steps=40,restarts=5]'
    """
    pairs = ",".join(f"{key}={value}" for key, value in parameters.items() if value != "")
    return f"{name}[{pairs}]" if pairs else name


def nearest(word: str, known: list[str]) -> str:
    """Return a hint for an unknown name: the closest known names, or all of them.

    Example:
        >>> nearest("pdg", ["pgd", "fgsm"])
        'did you mean pgd?'
    """
    lower = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower()[:100], list(lower), n=3, cutoff=0.5)
    close = [lower[word.lower()]] if word.lower() in lower else [lower[match] for match in matches]
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(sorted(known))}"


def class_in_file(name: str) -> type[Any] | None:
    """Import the class named by ``file:path.py:Class``; None if the file does not contain it.

    Raises:
        UserError: if there is no such file, or it cannot be imported.
    """
    path, _, class_name = name.removeprefix("file:").rpartition(":")
    file = with_home(Path(path))
    if len(file.name.encode(errors="replace")) > 255 or not file.is_file() or file.suffix != ".py":
        raise UserError(f"{_shown(name)}: give it as file:path.py:Class, with a file that exists")
    module_name = f"iqarena_file_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if module_name not in sys.modules:
        import_spec = importlib.util.spec_from_file_location(module_name, file)
        assert import_spec is not None
        assert import_spec.loader is not None
        module = importlib.util.module_from_spec(import_spec)
        sys.modules[module_name] = module
        if (folder := str(file.resolve().parent)) not in sys.path:
            sys.path.insert(0, folder)  # so that it finds the modules beside it, as with `python path.py`
        try:
            import_spec.loader.exec_module(module)
        except BaseException as error:
            if asks_to_stop(error):
                raise
            del sys.modules[module_name]
            raise UserError(f"{file}: cannot be imported ({describe(error)})") from None
    cls = vars(sys.modules[module_name]).get(class_name)
    return cls if inspect.isclass(cls) else None


def by_name(kind: str, entries: Iterable[Entry[T]]) -> dict[str, Entry[T]]:
    """Index entries by name; if two different classes have the same name, its entry is an error."""
    indexed: dict[str, Entry[T]] = {}
    for entry in entries:
        clash = entry.name in indexed and indexed[entry.name].cls is not entry.cls
        indexed[entry.name] = Entry(entry.name, None, f"two {kind}s are called {entry.name}; rename one") if clash else entry
    return indexed


_admitted: list[set[str]] = []
"""If it is not empty, its last entry has the names of the only plugins of other packages that are loaded."""


def admit_only(names: set[str]) -> None:
    """Load no plugins of other packages from now on but those of these names, in this process."""
    _admitted.append(names)


def installed(group: str, base: type[T]) -> Iterator[Entry[T]]:
    """Yield the entries of other packages in a group of entry points; one that cannot be loaded comes with its error."""
    for point in entry_points(group=group):
        if _admitted and point.name not in _admitted[-1]:
            continue
        try:
            cls = point.load()
            if not (inspect.isclass(cls) and issubclass(cls, base)):
                raise TypeError(f"{point.value} is no {base.__name__}")
            yield Entry(point.name, cls)
        except BaseException as error:
            if asks_to_stop(error):
                raise
            yield Entry(point.name, None, describe(error))


class Registry(Generic[T]):
    """A registry of all classes of one kind.

    Args:
        kind: "model", "defense" or "attack".
        package: the package that is searched.
        base: base class of the plugins.
        chained: builds one object from the links of ``a+b``, for kinds that can be chained.
    """

    def __init__(self, kind: str, package: str, base: type[T], chained: Callable[[tuple[T, ...]], T] | None = None) -> None:
        self.kind, self.package, self.base, self.chained = kind, package, base, chained
        self.stand_ins: dict[str, T] = {}  # by spec, for plugins that run in another process
        self._built: dict[tuple[type[T], str], T] = {}  # frozen objects, which every cell builds

    @cached_property
    def entries(self) -> dict[str, Entry[T]]:
        """All entries by name."""
        return by_name(self.kind, [*self._built_in(), *installed(self.package, self.base)])

    def _built_in(self) -> Iterator[Entry[T]]:
        package = importlib.import_module(self.package)
        for module_info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: None):
            try:
                module = importlib.import_module(module_info.name)
            except BaseException as error:  # a broken plugin must not take the others with it
                if asks_to_stop(error):
                    raise
                yield Entry(module_info.name.rpartition(".")[2].replace("_", "-"), None, describe(error))
                continue
            yield from (Entry(_name(cls), cls) for cls in self._classes(module))

    def _classes(self, module: ModuleType) -> list[type[T]]:
        return [
            cls
            for cls in vars(module).values()
            if inspect.isclass(cls)
            and issubclass(cls, self.base)
            and cls.__module__ == module.__name__
            and not inspect.isabstract(cls)
            and _name(cls)
        ]

    def entry(self, name: str) -> Entry[T] | None:
        """Return the entry of a name, or of the bridge to which a ``prefix:Class`` belongs; None if there is none."""
        return self.entries.get(name) or self.entries.get(name.partition(":")[0] + ":")

    def find(self, name: str) -> type[T]:
        """Return the class of a name, of a bridge's ``prefix:Class`` or of a file's ``file:path.py:Class``.

        Raises:
            UserError: for an unknown or broken plugin.
        """
        if name.startswith("file:") and name not in self.entries:
            return self._from_file(name)
        entry = self.entry(name)
        if entry is None:
            raise UserError(f"unknown {self.kind} {_shown(name)}; {nearest(name, self.names())}")
        if entry.cls is None:
            raise UserError(f"{self.kind} {name!r} is broken: {entry.error}")
        return entry.cls

    def _from_file(self, name: str) -> type[T]:
        cls = class_in_file(name)
        if cls is None or not issubclass(cls, self.base):
            file, _, class_name = name.removeprefix("file:").rpartition(":")
            raise UserError(f"{file}: holds no {self.base.__name__} called {class_name!r}")
        return cls

    def add(self, name: str, cls: type[T]) -> None:
        """Register a class in this process; it replaces an entry of the same name."""
        self.entries[name] = Entry(name, cls)

    def stand_in(self, spec: str, built: T) -> None:
        """Return an object for a spec from now on, without loading the plugin."""
        self.stand_ins[spec] = built

    def names(self) -> list[str]:
        """Return all names that can be used in specs, sorted; a bridge is listed by each of its variants."""
        out = []
        for entry in self.entries.values():
            variants = getattr(entry.cls, "variants", None)
            out += [f"{entry.name}{variant}" for variant in variants()] if variants else [entry.name]
        return sorted(out)

    def build(self, spec: str) -> T:
        """Build an object from ``name`` or ``name[parameter=value,…]``, or from a chain of these.

        Raises:
            UserError: for unknown names or parameters, or values of the wrong type.
        """
        if spec in self.stand_ins:
            return self.stand_ins[spec]
        if self.chained and len(parts := links(spec)) > 1:
            try:
                return self.chained(tuple(map(self.build, parts)))
            except ValueError as error:
                raise UserError(f"{self.kind} {spec!r}: {error}") from None
        name, parameters = parse_spec(spec)
        cls = self.find(name)
        if (cls, spec) in self._built:
            return self._built[cls, spec]
        if not is_dataclass(cls):
            if parameters:
                raise UserError(f"{self.kind} {name!r} takes no parameters")
            return self._instantiate(spec, cls)
        if ":" in name and not name.startswith("file:"):
            parameters = {"variant": name.partition(":")[2], "parameters": parameters}
        known = [f.name for f in fields(cls) if f.init]
        for key in parameters:
            if key not in known:
                raise UserError(f"{self.kind} {name!r} has no parameter {key!r}; {nearest(key, known)}")
        try:
            built: T = TypeAdapter(cls).validate_python(parameters)
        except ValidationError as error:
            where, message = first_message(error)
            raise UserError(f"{self.kind} {spec!r}: {where or name}: {message}") from None
        if cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            self._built[cls, spec] = built
        return built

    def _instantiate(self, spec: str, cls: type[T]) -> T:
        try:
            return cls()
        except BaseException as error:
            if asks_to_stop(error):
                raise
            raise UserError(f"{self.kind} {spec!r} cannot be made ({describe(error)})") from None


def _name(cls: type[Any]) -> str:
    """Return the registry name of a class: its `name`, or for a model its `info.name`, not counting inherited ones."""
    return str(vars(cls).get("name") or getattr(vars(cls).get("info"), "name", ""))


MODELS: Registry[QualityModel] = Registry("model", "iqarena.models", QualityModel)  # type: ignore[type-abstract]
DEFENSES: Registry[Defense] = Registry("defense", "iqarena.defenses", Defense, Chain)  # type: ignore[type-abstract]
ATTACKS: Registry[Attack] = Registry("attack", "iqarena.attacks", Attack)  # type: ignore[type-abstract]
REGISTRIES: dict[str, Registry[Any]] = {"model": MODELS, "attack": ATTACKS, "defense": DEFENSES}
"""The registries by the kind of their plugins."""
