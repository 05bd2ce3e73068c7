"""docs/attacks.md, from the registry of attacks."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import docstring_parser
import jinja2

from docs.reference.docstrings import cell, prose, source
from iqarena.attacks.base import Attack
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.fitted import FittedAttack
from iqarena.bench.cli.catalogue import refused
from iqarena.bench.registry import ATTACKS

_KINDS = {
    "ensemble": "Ensembles",
    "gradient": "With gradients",
    "set": "On a whole image set",
    "fitted": "Fitted beforehand",
    "score": "With scores only",
    "control": "Controls",
}

_PAGE = jinja2.Template(
    """\
<!-- written by `python -m docs.reference`; edit the docstrings in attacks/, not this page -->
# Attacks

{{ names | length }} attacks of our own and {{ bridged }} of two libraries. Every one follows the objectives of
[protocol.md](protocol.md) and is judged alike: what it returns is projected into the threat model, rounded to 8 bit toward
the clean image, verified from the stored pixels and scored anew. *Cost* is forwards + backwards an image at the defaults,
at most, the clean score's apart. Parameters are given as `{{ "name[parameter=value,…]" }}`. `iqarena list attacks --json`
has the same as data.

| norm | size is |
|---|---|
| `linf` | the largest change of a channel of a pixel, pixels being in [0, 1] |
| `l2` | the Euclidean length of the change of the whole image |
| `l0` | the share of pixels with any change |
| `patch` | the share of the area that the smallest square around all changes covers |
| `ssim` | 1 − SSIM of the luma, at most |

| attack | needs | norms | objectives | cost |
|---|---|---|---|---|
{% for a in attacks -%}
| [`{{ a.name }}`](#{{ a.name }}) | {{ a.kind }} | {{ a.norms }} | {{ a.objectives }} | {{ a.cost }} |
{% endfor %}
{%- for kind, title in kinds.items() %}
## {{ title }}
{% for a in attacks if a.kind == kind %}
### {{ a.name }}

{{ a.about }}

{{ a.source }}{% if a.paper %} Paper: {{ a.paper }}{% endif %}
{% if a.parameters %}
| parameter | default | |
|---|---|---|
{% for p in a.parameters -%}
| `{{ p.name }}` | `{{ p.default }}` | {{ p.about }} |
{% endfor %}{% endif %}{% endfor %}{% endfor %}
## Bridges
{% for b in bridges %}
### {{ b.name }}CLASS

{{ b.about }}

{{ b.source }}

| class | needs | norms | objectives |
|---|---|---|---|
{% for v in b.variants -%}
| `{{ v.name }}` | {{ v.access }} | {{ v.norms }} | {{ v.objectives }} |
{% endfor %}{% endfor %}
## Refused

Not on offer: what they would do to a score is not what their name says, no norm here bounds it, another entry does it
already, or they are not for single images or not for PyTorch.

| class | why |
|---|---|
{% for name, why in refused.items() -%}
| `{{ name }}` | {{ why }} |
{% endfor %}""",
    keep_trailing_newline=True,
)


def attacks_page() -> str:
    """docs/attacks.md as it should be."""
    own = [name for name in ATTACKS.names() if ":" not in name]
    bridges = sorted({name.partition(":")[0] + ":" for name in ATTACKS.names() if ":" in name})
    page: str = _PAGE.render(
        names=own,
        bridged=len(ATTACKS.names()) - len(own),
        kinds=_KINDS,
        attacks=[_facts(name) for name in own],
        bridges=[_bridge(name) for name in bridges],
        refused={name: cell(why) for name, why in refused().items()},
    )
    return re.sub(r"\n{3,}", "\n\n", page)


def _facts(name: str) -> dict[str, Any]:
    attack = ATTACKS.build(name)
    doc = docstring_parser.parse(inspect.getdoc(attack) or "")
    said = {parameter.arg_name: cell(parameter.description or "") for parameter in doc.params}
    # `restarts` and the like are told once, in the base that brings them
    for base in type(attack).__mro__[1:]:
        inherited = docstring_parser.parse(inspect.cleandoc(base.__doc__ or "")).params
        said = {p.arg_name: cell(p.description or "") for p in inherited} | said
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
            {"name": f.name, "default": getattr(attack, f.name), "about": said.get(f.name, "")}
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
    made = ATTACKS.find(prefix)
    doc = docstring_parser.parse(inspect.getdoc(made) or "")
    variants = []
    for name in ATTACKS.names():
        if name.startswith(prefix):
            attack = ATTACKS.build(name)
            norms, objectives = " ".join(attack.norms), " ".join(attack.objectives)
            variants.append({"name": name, "access": attack.access, "norms": norms, "objectives": objectives})
    about = prose(doc.short_description, doc.long_description)
    return {"name": prefix, "about": about, "source": source(made), "variants": variants}
