"""Errors of the benchmark, and their messages of one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError


class UserError(Exception):
    """An error that the user can fix; the command line prints the message and exits with code 2."""


class CannotRun(Exception):
    """A cell that cannot be run; it is skipped, and the message is the reason."""


def describe(error: BaseException) -> str:
    """Format an exception as one line.

    Example:
        >>> describe(ValueError("no  number"))
        'ValueError: no number'
    """
    try:
        message = str(error)
    except Exception:  # an exception of a plugin may fail to say what it is
        message = "its message cannot be made"
    return f"{type(error).__name__}: {' '.join(message.split())}"


def first_message(error: ValidationError) -> tuple[str, str]:
    """Return location and message of the first of pydantic's errors; the location, as ``threats.0.eps``, may be empty."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")


def printable(text: str, most: int = 300) -> str:
    """Truncate untrusted text to `most` characters, and replace control characters, which a terminal would interpret."""
    return "".join(character if character.isprintable() else "?" for character in text[:most])


@contextmanager
def exit_on_user_error(command: str) -> Iterator[None]:
    """Print errors that the user can fix as one line on stderr, without a traceback, and exit with code 2."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
    else:
        return
    print(f"{command}: {message}", file=sys.stderr)
    sys.exit(2)
