"""The page docs/measures.md: the values of its template, from the docstrings of the measures."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import docstring_parser

from docs.reference.docstrings import cell, prose
from iqarena.bench.evaluation.certification import measure_certificates
from iqarena.bench.metrics import other_benchmarks as peers
from iqarena.bench.metrics.bootstrap import COMPARED, RESAMPLES
from iqarena.bench.metrics.measures import MEASURES, Measure
from iqarena.bench.templates import render_markdown

TEMPLATE = Path(__file__).with_name("measures.md.j2")
SUMMARY: dict[str, str] = {
    "cell_id": "names the cell's folder under `cells/`",
    "dataset": "data set",
    "model": "model, with its parameters",
    "defense": "defense; `none` is the model itself",
    "attack": "attack, with its parameters",
    "objective": "what the attack is after, see [protocol.md](protocol.md)",
    "norm": "how the size of a change is measured",
    "eps": "largest size that is allowed, in units of pixels in [0, 1]",
    "setting": "`oblivious`, `adaptive` or `transfer`: what the attacker knows",
    "seed": "of everything random",
    "n_images": "images",
    "status": "the worst of its images', see [protocol.md](protocol.md)",
    "linf_max": "largest change of a channel of a pixel in any image",
    "psnr_mean": "mean PSNR in dB over the images that changed; lower is a more visible attack",
    "ssim_mean": "mean SSIM of the luma (Wang et al. 2004), at most 1; lower is a more visible attack",
    "forwards_mean": "forward passes an image that the attack took",
    "backwards_mean": "backward passes an image that the attack took",
    "seconds": "wall time of the cell, with what its attacked images took, also where other cells made them; so a sum "
    "over cells counts those again",
    "flags": "raised in this cell, see [flags.md](flags.md)",
    "source": "in the setting `transfer`: the model that the images were crafted on",
    "ms_ssim_mean": "mean multi-scale SSIM of the luma (Wang et al. 2003), in [0, 1], of images of at least 176×176",
}
IMAGES: dict[str, str] = {
    "image_id": "image",
    "reference_id": "the image that it was made from; itself where it is none's version",
    "mos": "label in [0, 1], 1 = best",
    "clean_quality": "q: quality of the clean image, by the deployed model",
    "adv_quality": "q′: quality of the stored attacked image, by the deployed model",
    "undefended_clean_quality": "u: quality of the clean image, by the undefended model",
    "linf": "largest change of a channel of a pixel, pixels being in [0, 1]",
    "l2": "Euclidean length of the change",
    "l0": "share of pixels with any change",
    "psnr": "in dB; empty where nothing changed",
    "ssim": "of the luma",
    "forwards": "forward passes that the attack took",
    "backwards": "backward passes that the attack took",
    "status": "`ok`, `violation`, `not-finite` or `failed`",
    "ms_ssim": "multi-scale SSIM of the luma; empty below 176×176",
}


def measures_page() -> str:
    """Render docs/measures.md."""
    return render_markdown(
        TEMPLATE,
        measures=[_measure(measure) for measure in MEASURES],
        columns=SUMMARY,
        images=IMAGES,
        resamples=f"{RESAMPLES:,}",
        compared=f"{COMPARED:,}",
        certified=_function(measure_certificates),
        peers=[{"name": function.__name__, "about": _function(function)} for function in (peers.msu, peers.guardians)],
    )


def _measure(measure: Measure) -> dict[str, Any]:
    what, formula, rest = (inspect.getdoc(measure) or "").split("\n\n")
    return {"name": measure.__name__, "what": cell(what), "formula": cell(formula), "rest": cell(rest)}


def _function(function: Any) -> str:
    doc = docstring_parser.parse(inspect.getdoc(function) or "")
    returned = doc.returns.description if doc.returns else ""
    return prose(doc.short_description, doc.long_description, returned).replace("``", "`")
