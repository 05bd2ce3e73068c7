"""`iqarena check`: check whether a plugin does what it declares, and compare it with others."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iqarena.bench.checks.attack import attack_facts, check_attack
from iqarena.bench.checks.comparison import IMAGES_OF_A_DEFENSE, IMAGES_OF_AN_ATTACK, MODELS, compare_attack, compare_defense
from iqarena.bench.checks.defense import check_defense, defense_facts
from iqarena.bench.checks.report import CheckReport
from iqarena.bench.errors import UserError
from iqarena.bench.inference.finding import Finding
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.model_checks import probe
from iqarena.bench.inference.process_state import settled
from iqarena.bench.registry import ATTACKS, DEFENSES, REGISTRIES, class_in_file, links, nearest, parse_spec

NETWORKS = {".pt": "torchscript:", ".ts": "torchscript:", ".onnx": "onnx:"}
"""Suffixes of files that hold a model, with the bridge that loads them."""


@settled()
def check(spec: str, models: Sequence[str] = (), limit: int | None = None) -> list[CheckReport]:
    """Check the plugin registered under a name, or each plugin in a file.

    Args:
        spec: a registry name with parameters, or a file: ``.py`` with classes, or a network (``.pt``, ``.onnx``).
        models: models on which an attack or a defense is compared with others; two small shipped ones if left out.
        limit: number of images of that comparison; 0 skips it, and with it the check of an attack's strength.

    Raises:
        UserError: where there is no such plugin, or it cannot be built.
    """
    first, *others = links(spec)
    name = spec if others else parse_spec(first)[0]
    if ":" not in name and Path(name).suffix in NETWORKS:
        return check(NETWORKS[Path(name).suffix] + spec, models, limit)
    if ":" not in name and name.endswith(".py"):
        return [report for cls in _classes(name) for report in check(cls + spec.removeprefix(name), models, limit)]
    if kinds := _kinds(spec):
        return [CheckReport(spec, kind, *_CHECKERS[kind](spec, models, limit)) for kind in kinds]
    if name.startswith("file:"):
        raise UserError(f"{name}: is no model, attack or defense")
    known = [other for registry in REGISTRIES.values() for other in registry.names()]
    raise UserError(f"nothing is called {name!r}; {nearest(name, known)}")


def _kinds(spec: str) -> list[str]:
    """Return the kinds of plugin that a name, a class in a file or a chain denotes."""
    if len(links(spec)) > 1:
        return [kind for kind, registry in REGISTRIES.items() if registry.chained]
    name, _ = parse_spec(spec)
    if name.startswith("file:"):
        cls = class_in_file(name)
        return [kind for kind, registry in REGISTRIES.items() if cls is not None and issubclass(cls, registry.base)]
    return [kind for kind, registry in REGISTRIES.items() if registry.entry(name)]


def _classes(file: str) -> list[str]:
    """Return the specs of the plugins in a file, as ``file:path.py:Class``."""
    try:
        body = ast.parse(Path(file).read_bytes()).body
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file}: not Python ({error})") from None
    names = [f"file:{file}:{node.name}" for node in body if isinstance(node, ast.ClassDef)]
    plugins = [name for name in names if _kinds(name) and not inspect.isabstract(class_in_file(name))]
    if not plugins:
        raise UserError(f"{file}: holds no model, attack or defense")
    return plugins


_Results = tuple[dict[str, Any], list[Finding], list[dict[str, Any]]]


def _check_model(spec: str, models: Sequence[str], limit: int | None) -> _Results:
    model = load_model(spec)
    return asdict(model.info), probe(model), []


def _check_attack(spec: str, models: Sequence[str], limit: int | None) -> _Results:
    attack = ATTACKS.build(spec)
    findings, rows = check_attack(attack), list[dict[str, Any]]()
    if limit != 0 and not attack.control and _is_comparable(findings):
        rows, strength = compare_attack(spec, models or MODELS, limit or IMAGES_OF_AN_ATTACK)
        findings += strength
    return attack_facts(attack), findings, rows


def _check_defense(spec: str, models: Sequence[str], limit: int | None) -> _Results:
    defense = DEFENSES.build(spec)
    findings, rows = check_defense(defense, tuple(models) or MODELS), list[dict[str, Any]]()
    if limit != 0 and _is_comparable(findings):
        rows, masked = compare_defense(spec, models or MODELS, limit or IMAGES_OF_A_DEFENSE)
        findings += masked
    return defense_facts(defense), findings, rows


def _is_comparable(findings: Sequence[Finding]) -> bool:
    """Check whether a plugin works on small images, without which there is nothing to compare."""
    return all(f.ok for f in findings if f.name in ("class attributes", "runs", "returns", "applies", "shape"))


_CHECKERS: dict[str, Callable[[str, Sequence[str], int | None], _Results]] = {
    "model": _check_model,
    "attack": _check_attack,
    "defense": _check_defense,
}
"""For each kind, a function of a spec, models and an image limit; returns the declared facts, the findings and the table."""
