"""Findings: the results of checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: name of the check.
        ok: whether the check passed.
        measured: description of what was measured.
        advice: what to do if the check failed.
    """

    name: str
    ok: bool
    measured: str
    advice: str = ""


def for_record(findings: Sequence[Finding]) -> dict[str, Any]:
    """Convert findings to the entries of a record: the failed checks, and what was measured."""
    return {"failed": [f.name for f in findings if not f.ok], "measured": {f.name: f.measured for f in findings}}
