"""Format numbers, intervals, threat sizes and specs for people."""

from __future__ import annotations

import math
import re

from iqarena.bench.metrics.bootstrap import Interval


def format_eps(norm: str, eps: float) -> str:
    """Return the size of a threat model in its usual notation: k/255 for linf where k is an integer.

    Example:
        >>> format_eps("linf", 2 / 255), format_eps("l2", 0.5)
        ('2/255', '0.5')
    """
    steps = round(eps * 255)
    return f"{steps}/255" if norm == "linf" and 0 < steps < 255 and abs(eps * 255 - steps) < 1e-6 else f"{eps:g}"


def format_number(value: float | None, digits: int = 2) -> str:
    """Return a number with a true minus sign; `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def format_interval(values: Interval, with_value: bool = True) -> str:
    """Return a value and its interval, or the interval alone."""
    value, low, high = values
    ends = f"[{format_number(low)}, {format_number(high)}]"
    return f"{format_number(value)} {ends}" if with_value else ends


def short_spec(spec: str) -> str:
    """Return a spec without the folder of its weights."""
    return re.sub(r"(?<=[\[,]weights=)[^,\[\]]*/(?=[^,\[\]/])", "", spec)
