"""The page docs/datasets.md: the values of its template, from the registry of data sets."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import docstring_parser

from docs.reference.docstrings import cell, prose
from iqarena.bench.datasets import DATASETS
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.folder import Columns
from iqarena.bench.templates import render_markdown

TEMPLATE = Path(__file__).with_name("datasets.md.j2")


def datasets_page() -> str:
    """Render docs/datasets.md."""
    return render_markdown(TEMPLATE, sets=[_dataset(name) for name in DATASETS])


def _dataset(name: str) -> dict[str, Any]:
    cls = DATASETS[name]
    facts = cls.facts()
    doc = docstring_parser.parse(inspect.getdoc(cls) or "")
    low, high = facts["raw_range"] or ("", "")
    unknown = "given" if name == "folder" else ""  # the label file of a folder says it
    return facts | {
        "name": name,
        "images": f"{cls.count:,}" if cls.count else "yours",
        "range": f"{low:g} to {high:g}" if facts["raw_range"] else unknown,
        "better": ("higher" if cls.higher_is_better else "lower") if facts["raw_range"] else unknown,
        "split": cls.split_description,
        "about": prose(doc.short_description, doc.long_description),
        "source": _background(cls),
        "layout": "\n".join(facts["layout"]),
        "parameters": _columns() if name == "folder" else [],
    }


def _background(cls: type[ImageDataset]) -> str:
    """Return the docstring of the class's module without its title, which is the first sentence."""
    text = re.sub(r"^[^.]*\.\s*", "", inspect.getdoc(sys.modules[cls.__module__]) or "")
    return re.sub(r"docs/([\w.-]+\.md)", r"[\1](\1)", prose(text))


def _columns() -> list[dict[str, Any]]:
    descriptions: dict[str, str] = {}
    for parameter in docstring_parser.parse(inspect.getdoc(Columns) or "").params:
        descriptions |= {name.strip(): cell(parameter.description or "") for name in parameter.arg_name.split(",")}
    return [{"name": f.name, "default": f.default, "about": descriptions[f.name]} for f in dataclasses.fields(Columns)]
