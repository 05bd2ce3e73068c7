"""Markdown pages from Jinja2 templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render_markdown(template: Path, filters: Mapping[str, Callable[..., str]] | None = None, **values: Any) -> str:
    """Render a Markdown template; several blank lines in a row become one.

    Args:
        template: a ``.md.j2`` file; templates in the same folder can be included.
        filters: further Jinja2 filters, by name.
        values: the variables of the template. One that is missing raises an error.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(filters or {})
    text = environment.get_template(template.name).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
