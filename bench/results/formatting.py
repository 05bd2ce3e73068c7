"""Numbers, intervals and specs as people read them."""

from __future__ import annotations

import math
import re

from iqarena.bench.metrics.bootstrap import Interval


def format_eps(norm: str, eps: float) -> str:
    """A threat's size as people write it: k/255 for linf where it is one.

    Example:
        >>> size("linf", 2 / 255), size("l2", 0.5)
        ('2/255', '0.5')
    """
    steps = round(eps * 255)
    return f"{steps}/255" if norm == "linf" and 0 < steps < 255 and abs(eps * 255 - steps) < 1e-6 else f"{eps:g}"


def format_number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus; `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def format_interval(values: Interval, with_value: bool = True) -> str:
    """A value and its interval, or the interval alone."""
    return (
        f"{format_number(values[0])} " if with_value else ""
    ) + f"[{format_number(values[1])}, {format_number(values[2])}]"


def short_spec(spec: str) -> str:
    """A spec without the folder of its weights."""
    return re.sub(r"(?<=[\[,]weights=)[^,\[\]]*/(?=[^,\[\]/])", "", spec)
