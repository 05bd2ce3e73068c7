"""The page docs/attacks.md: the values of its template, from the registry of attacks."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import docstring_parser

from docs.reference.docstrings import cell, prose, source
from iqarena.attacks.base import Attack
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.fitted import FittedAttack
from iqarena.bench.cli.catalogue import refused
from iqarena.bench.registry import ATTACKS
from iqarena.bench.templates import render_markdown

TEMPLATE = Path(__file__).with_name("attacks.md.j2")
_KINDS = {
    "ensemble": "Ensembles",
    "gradient": "With gradients",
    "set": "On a whole image set",
    "fitted": "Fitted beforehand",
    "score": "With scores only",
    "control": "Controls",
}


def attacks_page() -> str:
    """Render docs/attacks.md."""
    own = [name for name in ATTACKS.names() if ":" not in name]
    bridges = sorted({name.partition(":")[0] + ":" for name in ATTACKS.names() if ":" in name})
    return render_markdown(
        TEMPLATE,
        names=own,
        bridged=len(ATTACKS.names()) - len(own),
        kinds=_KINDS,
        attacks=[_facts(name) for name in own],
        bridges=[_bridge(name) for name in bridges],
        refused={name: cell(why) for name, why in refused().items()},
    )


def _facts(name: str) -> dict[str, Any]:
    attack = ATTACKS.build(name)
    doc = docstring_parser.parse(inspect.getdoc(attack) or "")
    descriptions = {parameter.arg_name: cell(parameter.description or "") for parameter in doc.params}
    # parameters such as `restarts` are described in the base class that has them
    for base in type(attack).__mro__[1:]:
        inherited = docstring_parser.parse(inspect.cleandoc(base.__doc__ or "")).params
        descriptions = {p.arg_name: cell(p.description or "") for p in inherited} | descriptions
    return {
        "name": name,
        "kind": _kind(attack),
        "norms": " ".join(attack.norms),
        "objectives": " ".join(attack.objectives),
        "cost": "{} + {}".format(*attack.passes) if attack.passes else "varies",
        "about": prose(doc.short_description, doc.long_description),
        "source": source(attack),
        "paper": attack.paper,
        "parameters": [
            {"name": f.name, "default": getattr(attack, f.name), "about": descriptions.get(f.name, "")}
            for f in dataclasses.fields(attack)  # type: ignore[arg-type]
        ],
    }


def _kind(attack: Attack) -> str:
    if attack.control:
        return "control"
    if isinstance(attack, Ensemble):
        return "ensemble"
    return "fitted" if isinstance(attack, FittedAttack) else attack.access


def _bridge(prefix: str) -> dict[str, Any]:
    cls = ATTACKS.find(prefix)
    doc = docstring_parser.parse(inspect.getdoc(cls) or "")
    variants = []
    for name in ATTACKS.names():
        if name.startswith(prefix):
            attack = ATTACKS.build(name)
            norms, objectives = " ".join(attack.norms), " ".join(attack.objectives)
            variants.append({"name": name, "access": attack.access, "norms": norms, "objectives": objectives})
    about = prose(doc.short_description, doc.long_description)
    return {"name": prefix, "about": about, "source": source(cls), "variants": variants}
