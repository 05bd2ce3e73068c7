"""Help for fuzz tests of readers: values that no field is for, and the check that a refusal is one line."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""Settings of all fuzz tests: some seconds, and the same examples every time."""

ODD = [
    *(
        "0",
        "-1",
        "2/255",
        "1e999999999",
        "1e-999999999",
        ".nan",
        ".inf",
        "9223372036854775808",
        "0x" + "f" * 20_000,
        "9" * 5000,
    ),
    *(
        "null",
        "~",
        "yes",
        "true",
        "[]",
        "{}",
        "[[[]]]",
        "2024-13-45",
        "!!bool maybe",
        "!!binary x",
        "!!set {a, b}",
        "!!int ''",
    ),
    *("!!timestamp x", "!!python/object:os.system [x]", "&a [*a]", "*gone", "'\\ud800'", '"\\ud800"', '"\\0"', '"a\\rb"'),
    *("[" * 5000, "{a: " * 3000, f"pgd[steps={'9' * 400}]", "''", "? [a]", "fgsm", "cnniqa", "$\\frac{$", "ε", "a" * 5000),
]
"""Values that no field of a file is for, as YAML, CSV or JSON may have them."""


def refusal(read: Callable[[], object], *kinds: type[Exception]) -> str:
    """Return the message with which a reader refuses, which must be one short line; empty if it reads.

    Args:
        read: the reader, without arguments.
        kinds: exceptions that are refusals; all others are errors of the reader.
    """
    message = ""
    try:
        read()
    except kinds as error:
        message = str(error) or "?"
    assert len(message.splitlines()) <= 1, message
    assert len(message) < 5000, message[:200]
    return message
