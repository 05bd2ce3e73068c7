"""The page docs/models.md: the values of its template, from the registry of models and the cards of their weights."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import docstring_parser

from docs.reference.docstrings import cell, prose, source
from iqarena.bench.cli.catalogue import catalogue
from iqarena.bench.registry import MODELS
from iqarena.bench.templates import render_markdown
from iqarena.models.zoo import ZOO, card_of

TEMPLATE = Path(__file__).with_name("models.md.j2")
HUMAN = "tid2013-reconstructed"


def models_page() -> str:
    """Render docs/models.md."""
    entries = [entry for entry in catalogue("models") if entry["error"] is None]
    cards = {file: card_of(file) for file in sorted(ZOO.glob("*.safetensors"))}
    ranked = [file for file, card in cards.items() if "demo_srocc_pseudo_mos" in card["measured"]]
    humans = sorted({card["measured"][HUMAN]["images"] for card in cards.values() if HUMAN in card["measured"]})
    return render_markdown(
        TEMPLATE,
        models=[_model(entry) for entry in entries if not entry["bridge"]],
        bridges=[_bridge(entry["name"]) for entry in entries if entry["bridge"]],
        bridges_about=_bridges_about(),
        zoo=[_zoo(file) for file in ranked],
        humans=" or ".join(f"{count:,}" for count in humans),
    )


def _model(entry: dict[str, Any]) -> dict[str, Any]:
    cls = MODELS.find(entry["name"])
    doc = docstring_parser.parse(inspect.getdoc(cls) or "")
    low, high = entry["score_range"]
    row = [
        "[`{0}`](#{0})".format(entry["name"]),
        f"{entry['parameters_count'] / 1e6:.2f} M" if entry["parameters_count"] else "",
        entry["weights"],
        str(entry["min_size"]),
        "yes" if entry["differentiable"] else "no, scores only",
        "yes" if entry["feature_maps"] else "",
        f"{low:g} to {high:g}{'' if entry['higher_is_better'] else ', lower is better'}",
    ]
    return entry | {
        "row": " | ".join(row),
        "about": prose(doc.short_description, doc.long_description),
        "source": source(cls),
    }


def _bridge(name: str) -> dict[str, str]:
    cls = MODELS.find(name)
    doc = docstring_parser.parse(inspect.getdoc(cls) or "")
    placeholder = {"pyiqa:": "METRIC"}.get(name, "FILE")
    return {
        "name": name,
        "placeholder": placeholder,
        "about": prose(doc.short_description, doc.long_description),
        "source": source(cls),
    }


def _bridges_about() -> str:
    """Return the docstring of the package of bridges without its title."""
    import iqarena.models.bridges

    return prose(
        (inspect.getdoc(iqarena.models.bridges) or "")
        .partition("\n\n")[2]
        .replace("(see `iqarena.bench.inference.measured_info`)", "on `demo`")
    )


def _zoo(file: Path) -> dict[str, str]:
    card = card_of(file)
    measured = card["measured"]
    return {
        "name": cell(file.stem),
        "demo": f"{measured['demo_srocc_pseudo_mos']:.2f}",
        "tid": f"{measured[HUMAN]['srocc']:.2f}" if HUMAN in measured else "",
        "data": cell(card["data"].get("images", "")),
    }
