"""Docstrings as Markdown, for the generated pages of docs/."""

from __future__ import annotations

import inspect
import sys


def source(plugin: object) -> str:
    """Return the docstring of the module of a class or of an instance."""
    cls = plugin if inspect.isclass(plugin) else type(plugin)
    return prose(inspect.getdoc(sys.modules[cls.__module__]) or "")


def prose(*parts: str | None) -> str:
    """Join texts as paragraphs, each on one line; indented blocks become code blocks."""
    paragraphs = []
    for paragraph in "\n\n".join(filter(None, parts)).split("\n\n"):
        code = paragraph.startswith("    ") or "\n    " in paragraph
        paragraphs.append(f"```text\n{inspect.cleandoc(paragraph)}\n```" if code else " ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


def cell(text: str) -> str:
    """Return a text on one line, as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
