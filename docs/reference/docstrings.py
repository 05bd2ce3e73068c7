"""Docstrings as Markdown, for the pages that are written from them."""

from __future__ import annotations

import inspect
import sys


def source(thing: object) -> str:
    """The module's docstring without the title's own name."""
    text = inspect.getdoc(sys.modules[thing.__module__ if inspect.isclass(thing) else type(thing).__module__]) or ""
    return prose(text)


def prose(*parts: str | None) -> str:
    """Paragraphs, each on one line; an indented block stays as it is."""
    out = []
    for paragraph in "\n\n".join(filter(None, parts)).split("\n\n"):
        code = paragraph.startswith("    ") or "\n    " in paragraph
        out.append(f"```text\n{inspect.cleandoc(paragraph)}\n```" if code else " ".join(paragraph.split()))
    return "\n\n".join(out)


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
