"""What goes wrong, and how it is put into one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError


class UserError(Exception):
    """Something the user can mend; the command line prints the message and exits with 2."""


class CannotRun(Exception):
    """A cell that makes no sense; the message is the reason, and the cell is skipped."""


def describe(error: BaseException) -> str:
    """An exception as one line.

    Example:
        >>> told(ValueError("no  number"))
        'ValueError: no number'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def first_message(error: ValidationError) -> tuple[str, str]:
    """Where the first of pydantic's complaints is, as in ``threats.0.eps``, and what it is; the place may be empty."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")


def printable(text: str, most: int = 300) -> str:
    """Somebody else's text with nothing in it that a terminal would obey, at most so many letters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


@contextmanager
def exit_on_user_error(command: str) -> Iterator[None]:
    """A context for a command's whole work: what its user can mend is one line on stderr and exit code 2, no traceback."""
    try:
        yield
    except UserError as error:
        words = str(error)
    except OSError as error:
        words = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
    else:
        return
    print(f"{command}: {words}", file=sys.stderr)
    sys.exit(2)
