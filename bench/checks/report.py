"""The report of `iqarena check` on one plugin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from iqarena.bench.inference.finding import Finding
from iqarena.bench.terminal import text_table


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
        declared = [(fact.replace("_", " "), value) for fact, value in self.facts.items() if value not in ("", None)]
        yield text_table(["", ""], declared, show_header=False)
        rows = [
            (
                finding.name,
                Text("ok", "green") if finding.ok else Text("FAILED", "red"),
                finding.measured,
                *([] if finding.ok else [finding.advice]),
            )
            for finding in self.findings
        ]
        yield text_table(["check", "", "what was seen", *(["what to do"] if failed else [])], rows)
        if self.comparison:
            columns = [column.replace("_", " ") for column in self.comparison[0]]
            yield text_table(columns, [[_cell(value) for value in row.values()] for row in self.comparison])

    def failures(self) -> str:
        """Return the failed findings as lines, for the message of an assertion."""
        return "\n".join(f"{f.name}: {f.measured}: {f.advice}" for f in self.findings if not f.ok)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
