"""The page docs/defenses.md: the values of its template, from the registry of defenses and the cards of their weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import docstring_parser

from docs.reference.docstrings import cell, prose, source
from iqarena.bench.checks.defense import SAME
from iqarena.bench.cli.catalogue import catalogue
from iqarena.bench.evaluation.certification import RADIUS
from iqarena.bench.registry import DEFENSES
from iqarena.bench.templates import render_markdown
from iqarena.models.zoo import card_of, weight_file

TEMPLATE = Path(__file__).with_name("defenses.md.j2")
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


def defenses_page() -> str:
    """Render docs/defenses.md."""
    entries = [entry for entry in catalogue("defenses") if entry["error"] is None]
    own = [_facts(entry) for entry in entries if ":" not in entry["name"] and entry["kind"] != "none"]
    bridged = [entry for entry in entries if ":" in entry["name"]]
    bridge: Any = DEFENSES.find("art:")
    return render_markdown(
        TEMPLATE,
        kinds=_KINDS,
        defenses=own,
        same=SAME,
        bridge=source(bridge),
        bridged=bridged,
        refused=bridge.refused(),
    )


def _facts(entry: dict[str, Any]) -> dict[str, Any]:
    cls = DEFENSES.find(entry["name"])
    doc = docstring_parser.parse(inspect.getdoc(cls) or "")
    descriptions: dict[str, str] = {}
    for base in reversed(cls.__mro__):  # the parameters of a base class are described there
        descriptions |= {
            name: cell(p.description or "")
            for p in docstring_parser.parse(inspect.cleandoc(base.__doc__ or "")).params
            for name in p.arg_name.split(", ")  # several parameters may share a line
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
        "source": source(cls),
        "parameters": [
            {"name": name, "default": _default(name, value), "about": descriptions.get(name, "")}
            for name, value in entry["parameters"].items()
        ],
    }


def _trained(entry: dict[str, Any], model: str) -> str:
    passes = card_of(weight_file(model, entry["name"])).get("budget", {}).get("passes")
    return f"`{model}`" + (f" ({passes:,} passes)" if passes else "")


def _default(name: str, value: object) -> str:
    """Format a default as on the command line: floats with few digits, the radius of a ball as k/255 if it is that."""
    if value is None or value == "":
        return ""
    if name in {"epsilon", "eps"} and isinstance(value, float) and 0 < value < 1 and (value * 255).is_integer():
        return f"`{value * 255:.0f}/255`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
