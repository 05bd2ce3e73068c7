"""The report of `iqarena check` on one plugin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from iqarena.bench.inference.finding import Finding


@dataclass(frozen=True)
class CheckReport:
    """All findings on one plugin.

    Attributes:
        name: the spec that was checked.
        kind: "model", "attack" or "defense".
        facts: what the plugin declares.
        findings: one per check.
        comparison: rows of a table that compares it with others.
    """

    name: str
    kind: str
    facts: dict[str, Any]
    findings: list[Finding]
    comparison: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return all(finding.ok for finding in self.findings)

    def as_data(self) -> dict[str, Any]:
        """Return the report as JSON-serialisable data."""
        return {"ok": self.ok, **asdict(self)}

    def tables(self) -> Iterator[RenderableType]:
        """Yield the parts to print: a headline, what the plugin declares, a line per finding, and the comparison."""
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
            verdict = Text("ok", "green") if finding.ok else Text("FAILED", "red")
            advice = [] if finding.ok else [Text(finding.advice)]
            findings.add_row(Text(finding.name), verdict, Text(finding.measured), *advice)
        yield findings
        if self.comparison:
            table = Table(*(column.replace("_", " ") for column in self.comparison[0]), box=None, pad_edge=False)
            for row in self.comparison:
                table.add_row(*(Text(_cell(value)) for value in row.values()))
            yield table

    def failures(self) -> str:
        """Return the failed findings as lines, for the message of an assertion."""
        return "\n".join(f"{f.name}: {f.measured}: {f.advice}" for f in self.findings if not f.ok)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
