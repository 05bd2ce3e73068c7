"""docs/models.md, from the registry of models and the cards of their weights."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import docstring_parser
import jinja2

from docs.reference.docstrings import cell, prose, source
from iqarena.bench.cli.catalogue import catalogue
from iqarena.bench.registry import MODELS
from iqarena.models.zoo import ZOO, card_of

HUMAN = "tid2013-reconstructed"

_PAGE = jinja2.Template(
    """\
<!-- written by `python -m docs.reference`; edit the docstrings in models/ and the cards in models/zoo/, not this page -->
# Models

{{ models | length }} no-reference models of our own, and bridges to those of others. A model takes RGB images in [0, 1] of
any height and width from its least side on and gives raw scores, which its range turns into qualities: 1 is best.
`iqarena check NAME` looks whether a model does what it says of itself, `iqarena list models --json` has this page as data.
Models that show *feature maps* can carry the defenses that act there, such as `cprl`.

| model | parameters | weights | least side | gradient | feature maps | raw score |
|---|--:|---|--:|---|---|---|
{% for m in models -%}
| {{ m.row }} |
{% endfor %}
*Weights*: shipped ones come with the model. Of the others nothing is shipped and nothing is fetched unasked:
`NAME[weights=FILE]` takes a safetensors file, or PyTorch's own (`.pt`, `.pth`, `.pkl`) with nothing but tensors in it; a
pickle with code is refused. Where others' weights score on another scale, it stands beside them:
`{{ "hyperiqa[weights=koniq.pkl,low=0,high=100]" }}`. `iqarena train -m NAME --backbone FILE` starts from ImageNet weights of
the backbone in a file, and `--backbone imagenet` has torchvision fetch them and checks their sha256.

## How well the shipped ones rank

Spearman's correlation with the pseudo-MOS of the embedded `demo` set and with the human MOS of `tid2013-reconstructed`
(see [datasets.md](datasets.md){% if humans %}; {{ humans }} images{% endif %}), clean. Reference images of the latter
are Kodak's; what was trained on these has seen them, in other distortions. `python -m docs.reference.rank_zoo` measures and writes
into the cards, where `iqarena train` has written all the rest.

| weights | trained on | demo, pseudo-MOS | tid2013-reconstructed, MOS |
|---|---|--:|--:|
{% for z in zoo -%}
| `{{ z.name }}` | {{ z.data }} | {{ z.demo }} | {{ z.tid }} |
{% endfor %}
{%- for m in models %}
## {{ m.name }}

{{ m.source }}

{{ m.about }}
{% if m.paper %}
Paper: {{ m.paper }}.{% endif %}{% if m.weights_wanted %}

Weights: {{ m.weights_wanted }}.{% endif %}
{% endfor %}
## Bridges

{{ bridges_about }}
{% for b in bridges %}
### {{ b.name }}{{ b.what }}

{{ b.source }}

{{ b.about }}
{% endfor %}
### file:PATH.py:CLASS

A `QualityModel` of your own. `iqarena check PATH.py` tells what is amiss with it.
""",
    keep_trailing_newline=True,
)


def models_page() -> str:
    """docs/models.md as it should be."""
    entries = [entry for entry in catalogue("models") if entry["error"] is None]
    cards = {file: card_of(file) for file in sorted(ZOO.glob("*.safetensors"))}
    ranked = [file for file, card in cards.items() if "demo_srocc_pseudo_mos" in card["measured"]]
    humans = sorted({card["measured"][HUMAN]["images"] for card in cards.values() if HUMAN in card["measured"]})
    page: str = _PAGE.render(
        models=[_model(entry) for entry in entries if not entry["bridge"]],
        bridges=[_bridge(entry["name"]) for entry in entries if entry["bridge"]],
        bridges_about=_bridges_about(),
        zoo=[_zoo(file) for file in ranked],
        humans=" or ".join(f"{count:,}" for count in humans),
    )
    return re.sub(r"\n{3,}", "\n\n", page)


def _model(entry: dict[str, Any]) -> dict[str, Any]:
    made = MODELS.find(entry["name"])
    doc = docstring_parser.parse(inspect.getdoc(made) or "")
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
        "source": source(made),
    }


def _bridge(name: str) -> dict[str, str]:
    made = MODELS.find(name)
    doc = docstring_parser.parse(inspect.getdoc(made) or "")
    what = {"pyiqa:": "METRIC"}.get(name, "FILE")
    return {"name": name, "what": what, "about": prose(doc.short_description, doc.long_description), "source": source(made)}


def _bridges_about() -> str:
    """The package's docstring without its title."""
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
