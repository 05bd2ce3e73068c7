"""docs/datasets.md, from the registry of data sets."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from typing import Any

import docstring_parser
import jinja2

from docs.reference.docstrings import cell, prose
from iqarena.bench.datasets import DATASETS
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.folder import Columns

_PAGE = jinja2.Template(
    """\
<!-- written by `python -m docs.reference`; edit the docstrings in bench/datasets/, not this page -->
# Data sets

{{ sets | length }} data sets by name: `iqarena run --dataset NAME --root DIR`. `iqarena data list` says what each needs on
disk. `iqarena data verify NAME --root DIR` looks at every file and tells in a table what is missing, extra, truncated,
unreadable or of another size. `iqarena list datasets --json` has this page as data.

* **Labels** are turned to [0, 1], 1 = best, by the range and direction below; a sample keeps the published value as `raw`.
* **Splits** are the data set's own where it has one. Else the references, and with each all its versions, are split by a
  hash of the seed and their names: 70 % training, 10 % validation, 20 % test.
* **Files** are found in whatever case, up to five folders below DIR. What is not whole is refused: half a data set is
  another benchmark.
* **Images** are 8-bit RGB. Of published sets, grey, palette and opaque alpha are turned to RGB, which loses nothing, and
  EXIF orientation is ignored, as everybody else does who reads them. Of your own folders these are refused. So are, of any
  set, 16 bits a channel, CMYK, animations, and files that are partly transparent, cut or oversized. Convert them first, so
  that it is clear what was scored.
* **Label files** come first in their official form. Where there is none, `labels.csv` or `labels.txt` in the form of the
  IQA-Dataset project will do. Workbooks need `pip install 'iqarena[data]'`.

| data set | images | labels | published range | better is | split |
|---|--:|---|---|---|---|
{% for d in sets -%}
| [`{{ d.name }}`](#{{ d.name }}) | {{ d.images }} | {{ d.label_kind }} | {{ d.range }} | {{ d.better }} | {{ d.split }} |
{% endfor %}
{%- for d in sets %}
## {{ d.name }}

{{ d.about }}

{{ d.source }}
{% if d.layout %}
```text
{{ d.layout }}
```
{% endif %}{% if d.parameters %}
| parameter | default | |
|---|---|---|
{% for p in d.parameters -%}
| `{{ p.name }}` | `{{ p.default }}` | {{ p.about }} |
{% endfor %}{% endif %}
{% if d.paper %}Paper: {{ d.paper }}. {% endif %}{% if d.licence %}Licence: {{ d.licence }}.{% endif %}
{% endfor -%}
""",
    keep_trailing_newline=True,
)


def datasets_page() -> str:
    """docs/datasets.md as it should be."""
    page: str = _PAGE.render(sets=[_dataset(name) for name in DATASETS])
    return re.sub(r"\n{3,}", "\n\n", page).rstrip() + "\n"


def _dataset(name: str) -> dict[str, Any]:
    made = DATASETS[name]
    facts = made.facts()
    doc = docstring_parser.parse(inspect.getdoc(made) or "")
    low, high = facts["raw_range"] or ("", "")
    return facts | {
        "name": name,
        "images": f"{made.count:,}" if made.count else "yours",
        "range": f"{low:g} to {high:g}" if facts["raw_range"] else "given" if name == "folder" else "",
        "better": ("higher" if made.higher_is_better else "lower")
        if facts["raw_range"]
        else "given"
        if name == "folder"
        else "",
        "split": made.split_told,
        "about": prose(doc.short_description, doc.long_description),
        "source": _background(made),
        "layout": "\n".join(facts["layout"]),
        "parameters": _columns() if name == "folder" else [],
    }


def _background(made: type[ImageDataset]) -> str:
    """The module's docstring without its title, which is the first sentence."""
    text = re.sub(r"^[^.]*\.\s*", "", inspect.getdoc(sys.modules[made.__module__]) or "")
    return re.sub(r"docs/([\w.-]+\.md)", r"[\1](\1)", prose(text))


def _columns() -> list[dict[str, Any]]:
    said: dict[str, str] = {}
    for parameter in docstring_parser.parse(inspect.getdoc(Columns) or "").params:
        said |= {name.strip(): cell(parameter.description or "") for name in parameter.arg_name.split(",")}
    return [{"name": f.name, "default": f.default, "about": said[f.name]} for f in dataclasses.fields(Columns)]
