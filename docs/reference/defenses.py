"""docs/defenses.md, from the registry of defenses and the cards of their weights."""

from __future__ import annotations

import inspect
import re
from typing import Any

import docstring_parser
import jinja2

from docs.reference.docstrings import cell, prose, source
from iqarena.bench.checks.defense import SAME
from iqarena.bench.cli.catalogue import catalogue
from iqarena.bench.evaluation.certification import RADIUS
from iqarena.bench.registry import DEFENSES
from iqarena.models.zoo import card_of, weight_file

_KINDS = {
    "purification": ("Purification", "A filter in front of the model. Any two chain: `jpeg+flip` is JPEG first."),
    "training": ("Training", "A recipe for the weights; the network stays as it is."),
    "architecture": ("Architecture", "A changed network, trained by plain regression unless `training=adversarial`."),
    "certified": (
        "Certified",
        "They state an interval of quality that no change up to a given ℓ2 length leaves, at a given confidence. Records "
        f"hold the intervals at {RADIUS:g} (or at the threat's own size, where that is one of ℓ2); `summary.csv` ends with "
        "the SROCC that they certify, their mean width, radius, confidence, and how many attacks left.",
    ),
}

_PAGE = jinja2.Template(
    """\
<!-- written by `python -m docs.reference`; edit the docstrings in defenses/, not this page -->
# Defenses

{{ defenses | length }} defenses of our own and {{ bridged | length }} preprocessors of a library. Each says how an
attacker who knows of it gets a gradient: *exact*, through a *smooth* stand-in, or as if it were the *identity* (BPDA). A
*random* one is attacked on the average over its draws. *Forwards* are passes of the model that a score costs; what a
filter takes itself shows in the measured seconds, of which the leaderboard has the ratio to the bare model. *Passes* are
forward+backward passes that training costs for each image. Parameters are given as `{{ "name[parameter=value,…]" }}`.
`iqarena list defenses --json` has the same as data.

A surrogate's scores are close to the deployed ones: `iqarena check NAME` wants them within {{ "%g" % same.exact }} of the
range where it is exact or the identity, and within {{ "%g" % same.smooth }} where it is a smooth stand-in. How close each
is, how strong attacks through it are, what certificates hold and what each defense costs beside the bare model was tried:
[defenses-tried.md](defenses-tried.md).

| defense | kind | surrogate | random | forwards | passes | trained for |
|---|---|---|---|--:|--:|---|
{% for d in defenses -%}
| {{ d.row }} |
{% endfor %}
{%- for kind, (title, about) in kinds.items() %}
## {{ title }}

{{ about }}
{% for d in defenses if d.kind == kind %}
### {{ d.name }}

{{ d.about }}

{{ d.source }}{% if d.paper %} Paper: {{ d.paper }}{% endif %}
{% if d.parameters %}
| parameter | default | |
|---|---|---|
{% for p in d.parameters -%}
| `{{ p.name }}` | {{ p.default }} | {{ p.about }} |
{% endfor %}{% endif %}{% endfor %}{% endfor %}
## Bridges

### art:CLASS

{{ bridge }}

| class | surrogate | random |
|---|---|---|
{% for b in bridged -%}
| `{{ b.name }}` | {{ b.surrogate }} | {{ "yes" if b.stochastic }} |
{% endfor %}
The toolbox's other preprocessors are not on offer:

| class | why |
|---|---|
{% for name, why in refused.items() -%}
| `art:{{ name }}` | {{ why }} |
{% endfor %}""",
    keep_trailing_newline=True,
)  # fmt: skip


def defenses_page() -> str:
    """docs/defenses.md as it should be."""
    entries = [entry for entry in catalogue("defenses") if entry["error"] is None]
    own = [_facts(entry) for entry in entries if ":" not in entry["name"] and entry["kind"] != "none"]
    bridged = [entry for entry in entries if ":" in entry["name"]]
    bridge: Any = DEFENSES.find("art:")
    page: str = _PAGE.render(
        kinds=_KINDS,
        defenses=own,
        same=SAME,
        bridge=source(bridge),
        bridged=bridged,
        refused=bridge.refused(),
    )
    return re.sub(r"\n{3,}", "\n\n", page)


def _facts(entry: dict[str, Any]) -> dict[str, Any]:
    made = DEFENSES.find(entry["name"])
    doc = docstring_parser.parse(inspect.getdoc(made) or "")
    said: dict[str, str] = {}
    for base in reversed(made.__mro__):  # what a base brings is told there
        said |= {
            name: cell(p.description or "")
            for p in docstring_parser.parse(inspect.cleandoc(base.__doc__ or "")).params
            for name in p.arg_name.split(", ")  # several may share a line
        }
    passes = entry["cost"]["passes_an_image"]
    trained = ", ".join(_trained(entry, model) for model in entry["trained_for"] or ())
    row = [
        "[`{0}`](#{0})".format(entry["name"]),
        entry["kind"],
        entry["surrogate"],
        "yes" if entry["stochastic"] else "",
        str(entry["cost"]["forwards"]),
        "" if passes is None else str(passes),
        trained,
    ]
    return entry | {
        "row": " | ".join(row),
        "about": prose(doc.short_description, doc.long_description),
        "source": source(made),
        "parameters": [
            {"name": name, "default": _default(name, value), "about": said.get(name, "")}
            for name, value in entry["parameters"].items()
        ],
    }


def _trained(entry: dict[str, Any], model: str) -> str:
    passes = card_of(weight_file(model, entry["name"])).get("budget", {}).get("passes")
    return f"`{model}`" + (f" ({passes:,} passes)" if passes else "")


def _default(name: str, value: object) -> str:
    """As it is given on the command line; a float in few digits, the size of a ball as a multiple of 1/255 if it is one."""
    if value is None or value == "":
        return ""
    if name in {"epsilon", "eps"} and isinstance(value, float) and 0 < value < 1 and (value * 255).is_integer():
        return f"`{value * 255:.0f}/255`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
