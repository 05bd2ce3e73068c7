"""Cells, into which a suite is expanded: the units of work and of resumption, and the rows of summary.csv."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from iqarena.attacks.objective import Kind
from iqarena.attacks.threat import Norm, Threat
from iqarena.bench.errors import UserError
from iqarena.bench.registry import ATTACKS, REGISTRIES, links, parse_spec, spec_of, spec_texts
from iqarena.bench.suite import SUITES, Part, Precision, Setting, Suite

PROTOCOL = 2
"""Version of the protocol: to be raised with every change of `bench`, or of a base class, that changes a cell's numbers.

It is part of every cell's id. A test compares the numbers of some small cells with the expected ones of this version.
"""


@dataclass(frozen=True)
class Cell:
    """One combination of data set, model, defense, attack, threat model and setting; specs as `canonical` spells them."""

    dataset: str
    model: str
    defense: str
    attack: str
    objective: Kind
    norm: Norm
    eps: float
    queries: int | None
    setting: Setting
    seed: int
    draws: int
    target: float = 1.0
    source: str = ""  # in the setting `transfer`: the model on which images are crafted
    precision: Precision = "float32"  # of gradients

    @property
    def parts(self) -> dict[str, Any]:
        """The fields of the cell by name."""
        return {name: getattr(self, name) for name in _FIELDS}

    @property
    def defended(self) -> str:
        """Display name of the deployed model."""
        return self.model if self.defense == "none" else f"{self.model} + {self.defense}"

    @property
    def threat(self) -> Threat:
        """The threat model."""
        return Threat(self.norm, self.eps, self.queries)

    @property
    def crafted_on(self) -> tuple[str, str]:
        """The model that the attack sees, and its defense: `none` unless the attack is adaptive."""
        return self.source or self.model, self.defense if self.setting == "adaptive" else "none"

    @property
    def model_and_threat(self) -> tuple[object, ...]:
        """The model under attack and the threat model, by which cells are grouped in the plan."""
        return (self.crafted_on, self.threat)

    @cached_property
    def crafting(self) -> str:
        """Key of everything that the attacked images depend on; cells with the same key share their attacked images."""
        parts = self.parts | dict(zip(("model", "defense"), self.crafted_on, strict=True))
        del parts["setting"], parts["source"]
        return json.dumps(parts, sort_keys=True)


_FIELDS = [field.name for field in fields(Cell)]


def digest(*parts: object) -> str:
    """Return the sha256 of JSON-serialised values, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def expand(suite: Suite) -> list[Cell]:
    """Expand a suite to its cells, with cells that share attacked images next to each other.

    Cells are sorted by the model under attack and the threat model, then by the attack. So the members of an ensemble,
    which are cells as well, are near the ensemble.

    Raises:
        UserError: for an unknown attack.

    Example:
        >>> from iqarena.bench.suite import validated
        >>> suite = validated({"models": ["cnniqa"], "defenses": ["none", "jpeg"], "attacks": ["fgsm"]})
        >>> [(cell.defense, cell.setting) for cell in expand(suite)]
        [('none', 'oblivious'), ('none', 'adaptive'), ('jpeg', 'oblivious'), ('jpeg', 'adaptive')]
    """
    parts = [suite, *(suite.model_copy(update=_given(part)) for part in suite.parts)]
    cells = [cell for part in parts for cell in _product(_spelled(part))]
    first: dict[object, int] = {}
    for index, cell in enumerate(cells):
        for group in (cell.model_and_threat, cell.crafting):
            first.setdefault(group, index)
    return sorted(dict.fromkeys(cells), key=lambda cell: (first[cell.model_and_threat], first[cell.crafting]))


def _spelled(suite: Suite) -> Suite:
    """Return a suite with the canonical spelling of its specs, each once."""
    spelled: dict[str, Any] = {
        "dataset": canonical("data set", suite.dataset),
        "attacks": [attack.model_copy(update={"attack": canonical("attack", attack.attack)}) for attack in suite.attacks],
    }
    for name in ("models", "defenses", "transfer_from"):
        kind = "defense" if name == "defenses" else "model"
        spelled[name] = list(dict.fromkeys(canonical(kind, spec) for spec in getattr(suite, name)))
    return suite.model_copy(update=spelled)


def canonical(kind: str, spec: str) -> str:
    """Return the one spelling of all specs that mean the same: those of a shipped suite, else without blanks and defaults.

    So ``pgd[steps=2, restarts=1]`` and ``pgd[restarts=1,steps=2]`` are one cell. A spec that names nothing is returned as it
    is, since its error belongs to where it is used.

    Args:
        kind: "model", "defense", "attack" or "data set".
        spec: the spec.

    Example:
        >>> canonical("attack", "pgd[restarts=2, steps=10]")
        'pgd[restarts=2]'
    """
    parts = links(spec) if kind == "defense" else [spec]
    if len(parts) > 1:
        return "+".join(canonical(kind, part) for part in parts)
    if kind == "attack" and spec in ATTACKS.stand_ins:  # spelled by the process that has the plugin
        return spec
    try:
        plain = _plain_spec(kind, spec)
        return _shipped_spellings(kind, spec_texts(plain)[0]).get(plain, plain) if "[" in plain else plain
    except UserError:
        return spec


@functools.cache
def _shipped_spellings(kind: str, name: str) -> dict[str, str]:
    """Return the specs with parameters of one name in the shipped suites, by what `_plain_spec` would make of them."""
    found: dict[str, str] = {}
    for file in sorted(SUITES.glob("*.yaml")):
        for spec in re.findall(rf"(?<![\w:.-]){re.escape(name)}\[[^\[\]]*=[^\[\]]*\]", file.read_text(encoding="utf-8")):
            found.setdefault(_plain_spec(kind, spec), spec)
    return found


def _plain_spec(kind: str, spec: str) -> str:
    """Return a spec with its parameters in the order of their class, in their shortest form, and without defaults.

    Raises:
        UserError: for a spec that names nothing.
    """
    name, texts = spec_texts(spec)
    if name.startswith("file:"):
        name = _plain_path(name.removeprefix("file:"), "file:")
    if kind in ("model", "data set"):  # a model is not built here, and a data set has an order of its own
        keys = texts if kind == "data set" else sorted(texts, key=lambda key: (key != "weights", key))
        return spec_of(name, {key: texts[key] if kind == "data set" else _short(spec, key) for key in keys})
    built = REGISTRIES[kind].build(spec)
    if not is_dataclass(built) or not texts:
        return name
    own = {field.name: field.default for field in fields(built) if field.init}
    if set(texts) <= set(own):
        values = {key: getattr(built, key) for key in own if key in texts}
        written = {key: _short(spec, key, value) for key, value in values.items() if not _same(value, own[key])}
    else:  # a bridge hands its parameters on
        written = {key: _short(spec, key) for key in sorted(texts)}
    plain = spec_of(name, written)
    return plain if REGISTRIES[kind].build(plain) == built else spec_of(name, texts)


def _plain_path(path: str, prefix: str = "") -> str:
    """Return a path without the parts that lead nowhere, such as ``./``."""
    parts = [part for index, part in enumerate(path.split("/")) if part != "." and (part or index == 0)]
    return prefix + "/".join(parts)


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other


def _short(spec: str, key: str, value: object = None) -> str:
    """Return the shortest text of a parameter's value, the one that was parsed if no other is given."""
    text = spec_texts(spec)[1][key]
    parsed = parse_spec(spec)[1][key]
    own = value is not None
    value = value if own else parsed
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):  # of a bridge, 3.0 may differ from 3, and 1e-05 would be a word
        return repr(value).removesuffix(".0") if own else re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    if key == "weights" and isinstance(value, str) and ("/" in (path := _plain_path(value)) or PurePath(path).suffix):
        value = path  # and not ./label, which would become a label
    if isinstance(value, str) and re.fullmatch(r"[\w./$~@-]+", value) and isinstance(parsed, str) and _is_word(value):
        return value
    return text


def _is_word(text: str) -> bool:
    """Check whether a text without quotes is read as itself, not as a number, a boolean or nothing."""
    return isinstance(parse_spec(f"_[_={text}]")[1]["_"], str)


def _given(part: Part) -> dict[str, Any]:
    """Return the fields that a part replaces."""
    return {name: value for name in Part.model_fields if (value := getattr(part, name)) is not None}


def _product(suite: Suite) -> Iterator[Cell]:
    """Yield all combinations of the lists of a suite, without its parts."""
    for model in suite.models:
        for attack in suite.attacks:
            supported = ATTACKS.build(attack.attack).objectives
            for objective in attack.objectives or (["away"] if "away" in supported else list(supported)):
                for threat in suite.threats:
                    for defense in suite.defenses:
                        for setting, source in _settings(suite, model):
                            yield Cell(
                                suite.dataset,
                                model,
                                defense,
                                attack.attack,
                                objective,
                                threat.norm,
                                threat.eps,
                                threat.queries,
                                setting,
                                suite.seed,
                                suite.draws,
                                attack.target,
                                source,
                                suite.precision,
                            )


def _settings(suite: Suite, model: str) -> list[tuple[Setting, str]]:
    """Return the settings in which a model is attacked, each with the source model of a transfer attack, else "".

    The transfer from a model to itself is omitted, since it is the oblivious cell.
    """
    sources = [source for source in suite.transfer_from or suite.models if source != model]
    settings = dict.fromkeys(suite.settings)
    if suite.transfer_from:
        settings["transfer"] = None
    return [(setting, source) for setting in settings for source in (sources if setting == "transfer" else [""])]


SIZES: dict[str, str] = {"linf": "2/255", "l2": "1", "l0": "0.001", "patch": "0.02", "ssim": "0.05"}


SYMBOLS: dict[Norm, str] = {"linf": "ℓ∞", "l2": "ℓ2", "l0": "share of pixels", "patch": "share of area", "ssim": "1 − SSIM"}
