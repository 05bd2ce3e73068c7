"""One finding of a check: what was looked at, and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


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


def for_record(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings as a record keeps them: which failed, and what was seen."""
    return {"failed": [f.name for f in findings if not f.ok], "measured": {f.name: f.measured for f in findings}}
