"""Format numbers, intervals, threat sizes and specs for people."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

from iqarena.bench.errors import UserError
from iqarena.bench.metrics.bootstrap import Interval
from iqarena.bench.registry import parse_spec

STAND_IN = "\ufffd"
"""For a character that cannot be shown."""
_JOINERS = "\u200c\u200d"
"""Invisible characters that many scripts and emoji need."""


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


@functools.lru_cache(maxsize=4096)
def short_spec(spec: str) -> str:
    """Return a spec as it is shown: on one line, without the folder of its weights."""
    return shown(re.sub(r"(?<=[\[,]weights=)[^,\[\]]*/(?=[^,\[\]/])", "", spec)) or "(no name)"


def shown(text: str) -> str:
    """Return text of others on one line, with a stand-in for control characters, lone surrogates and changes of direction.

    Example:
        >>> shown("two\\r\\nlines\\x00")
        'two lines\ufffd'
    """
    return "".join(c if c.isprintable() or c in _JOINERS else STAND_IN for c in " ".join(text.split()))


def spec_parts(spec: str) -> tuple[str, dict[str, Any]]:
    """Return name and parameters of the spec of one link; a name that is no spec, as models of one's own may have, is kept.

    Example:
        >>> spec_parts("pgd[steps=40]"), spec_parts("ResNet[ours]")
        (('pgd', {'steps': 40}), ('ResNet[ours]', {}))
    """
    try:
        return parse_spec(spec)
    except UserError:
        return spec, {}


def labelled_name(dataset: str, label: str) -> str:
    """Return the name of a data set as it is shown, with the label that tells it from others of that name."""
    return f"{short_spec(dataset)} ({label})" if label else short_spec(dataset)
