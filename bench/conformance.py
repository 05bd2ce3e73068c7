"""`iqarena check`: what a plugin does, against what it says of itself."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bench.errors import UserError

NETWORKS = {".pt": "torchscript:", ".ts": "torchscript:", ".onnx": "onnx:"}
"""Endings of files that are a model each, with the bridge that opens them."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the check.
        ok: whether it is as it should be.
        measured: what was seen, in words.
        advice: what to do where it is not.
    """

    name: str
    ok: bool
    measured: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """All findings on one plugin.

    Attributes:
        name: as it was asked for.
        kind: "model".
        facts: what it says of itself.
        findings: one a check.
    """

    name: str
    kind: str
    facts: dict[str, Any]
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return all(finding.ok for finding in self.findings)

    def as_data(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"ok": self.ok, **asdict(self)}

    def tables(self) -> Iterator[RenderableType]:
        """For a terminal: a headline, what it says of itself, and a line a finding."""
        failed = [finding for finding in self.findings if not finding.ok]
        outcome = f"{len(failed)} of {len(self.findings)} checks failed" if failed else "all is well"
        yield Text(f"{self.kind} {self.name}: {outcome}")
        facts = Table(box=None, pad_edge=False, show_header=False)
        for fact, value in self.facts.items():
            if value not in ("", None):
                facts.add_row(fact.replace("_", " "), Text(str(value)))
        yield facts
        findings = Table(box=None, pad_edge=False)
        for column in ("check", "", "what was seen", *(["what to do"] if failed else [])):
            findings.add_column(column)
        for finding in self.findings:
            row = [Text(finding.name), Text("ok", "green") if finding.ok else Text("FAILED", "red"), Text(finding.measured)]
            findings.add_row(*row, *([] if finding.ok else [Text(finding.advice)]))
        yield findings


def for_record(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings as a record keeps them: which failed, and what was seen."""
    return {"failed": [f.name for f in findings if not f.ok], "measured": {f.name: f.measured for f in findings}}


def check(spec: str) -> list[Report]:
    """A report on what is registered under a name, or on each plugin in a file.

    Args:
        spec: a registry name with parameters, or a file: ``.py`` with classes, or a network (``.pt``, ``.onnx``).

    Raises:
        UserError: where there is no such thing, or it cannot be made.
    """
    from bench.registry import MODELS, nearest, parse_spec

    registries = {"model": MODELS}
    name, _ = parse_spec(spec)
    if ":" not in name and Path(name).suffix in NETWORKS:
        return check(NETWORKS[Path(name).suffix] + spec)
    if ":" not in name and name.endswith(".py"):
        return [report for own in _classes(name) for report in check(own + spec.removeprefix(name))]
    for kind, registry in registries.items():
        if name.startswith("file:") or registry.entry(name):
            return [Report(spec, kind, *_CHECKERS[kind](spec))]
    known = [known for registry in registries.values() for known in registry.names()]
    raise UserError(f"nothing is called {name!r}; {nearest(name, known)}")


def _classes(file: str) -> list[str]:
    """The plugins in a file, as ``file:path.py:Class``."""
    from bench.registry import MODELS

    try:
        body = ast.parse(Path(file).read_bytes()).body
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file}: not Python ({error})") from None
    found, problem = [], f"{file}: holds no class"
    for name in (f"file:{file}:{node.name}" for node in body if isinstance(node, ast.ClassDef)):
        try:
            if not inspect.isabstract(MODELS.find(name)):
                found.append(name)
        except UserError as error:
            problem = str(error)
    if not found:
        raise UserError(problem)
    return found


def _model(spec: str) -> tuple[dict[str, Any], list[Finding]]:
    from bench.loading import load_model
    from bench.probe import probe

    model = load_model(spec)
    return asdict(model.info), probe(model)


_CHECKERS: dict[str, Callable[[str], tuple[dict[str, Any], list[Finding]]]] = {"model": _model}
"""By kind: from a spec to what the plugin says of itself and the findings."""
