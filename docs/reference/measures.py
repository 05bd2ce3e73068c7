"""docs/measures.md, from the docstrings of the measures."""

from __future__ import annotations

import inspect
import re
from typing import Any

import docstring_parser
import jinja2

from docs.reference.docstrings import cell, prose
from iqarena.bench.evaluation.certification import measure_certificates
from iqarena.bench.metrics import other_benchmarks as peers
from iqarena.bench.metrics.bootstrap import COMPARED, RESAMPLES
from iqarena.bench.metrics.measures import MEASURES, Measure

_PAGE = jinja2.Template(
    """\
<!-- written by `python -m docs.reference`; edit the docstrings in bench/metrics/measures.py, not this page -->
# Measures

What `summary.csv` holds of a cell: {{ measures | length }} measures, each with its 95 % interval in `_lo`
and `_hi`, and what the cell is and cost. Missing is empty. *q* is the clean and *q′* the attacked quality of the deployed
model (1 = best, not clamped), *u* the clean quality of the undefended model, *y* the label. All of one cell are of the
same images: those that have scores.

Measures up to `reflection_rate` stand in the middle of the file, the others at its end: a column never moves, so that a
script that counts columns keeps working. A measure is empty where it is not defined (a correlation of scores that are all
equal, anything with labels where an image has none, everything for fewer than two images) and in records that are older
than it.

**Read two of them together.** An attack that raises every score alike has a large `abs_gain` and leaves `srocc_adv` as it
was; one that reflects the scores about their middle ruins the order and moves those in the middle by little. And read
`abs_gain_iqr` beside `abs_gain`: a model that uses a tenth of its nominal range moves by a tenth as much, and holds no
better.

| measure | what | formula | range, direction, source |
|---|---|---|---|
{% for m in measures -%}
| `{{ m.name }}` | {{ m.what }} | {{ m.formula }} | {{ m.rest }} |
{% endfor %}
## The other columns of summary.csv

| column | what |
|---|---|
{% for name, about in columns.items() -%}
| `{{ name }}` | {{ about }} |
{% endfor %}
## Columns of images.csv

| column | what |
|---|---|
{% for name, about in images.items() -%}
| `{{ name }}` | {{ about }} |
{% endfor %}
## Perceptual cost

PSNR, SSIM and MS-SSIM are measured of every image. LPIPS (Zhang et al., CVPR 2018) and DISTS (Ding et al., TPAMI 2020)
need weights that do not come with this project and are never downloaded. For the images of a run with `--keep-images`,
`python -m iqarena.bench.cli.perceptual RESULTS --lpips FILE --dists FILE` writes `perceptual.csv` into the results folder, a row a
cell and image; 0 is no difference, more is a more visible attack. Asked for a file that is not there, it says what has
to be in it.

## Intervals

Images made from one reference are not independent, so {{ resamples }} resamples draw *references* with replacement, and
each brings all its images. `_lo` and `_hi` are the 2.5 and 97.5 percentiles, widened to hold the value. The draw
depends on the set of references alone: cells on the same images are resampled together, and their differences are
paired. The fitted curve of `plcc_*_fitted` and `rmse_*_fitted` is that of the cell in every resample. With fewer than
thirty references the percentiles are a rough guide, and the leaderboard says so.

In 2,000 simulated sets of 100 references with 3 images each, the interval of a mean covers the truth in 93 to 97 % of
them; one that takes images for independent, in less than 85 % (`tests/metrics/test_bootstrap.py`). The robust SROCC of a row is
the least over its attacks, taken anew in each resample. A board of 50 cells with 1,000 images each takes {{ compared }}
resamples in a few seconds (`python -m iqarena.bench.bootstrap_speed`).

## Ranks and comparisons

* **Ranks** on the leaderboard: 1 + the number of rows whose interval lies wholly above this one's. Two rows whose intervals
  overlap share a rank, unless a third row lies wholly above only one of them.
* **`iqarena compare A B`** looks closer: the difference of the two in each of {{ compared }} resamples. p is twice the
  smaller share of resamples on one side of zero, and is corrected for all lines of a table by Holm's step-down method
  (1979). So two rows may share a rank and yet be told apart.
* **Seeds of training.** A name without `weights=` stands for all weights of that recipe. Their mean is compared, and
  every resample draws the trainings anew as well. With S of them the spread between them comes out too small, by √((S −
  1) / S).

## Across cells

As data frames, from a results folder (`iqarena.bench.results.curves`) or from `bench.evaluate`:

* **against ε** (`size_curves`): robust SROCC and worst mean |shift| at every size, beginning at 0;
* **in one number** (`integrals`): ∫ measure dε / ε_max by trapezoids, after the Integral Robustness Score (Chistyakova et
  al., Technologies 12(11):220, 2024): the mean over all sizes up to the largest. Empty for rows that lack a size or an
  attack;
* **against effort** (`effort_curves`): how far each attack had come after 1, 2, 5, 10, … forward passes. One run gives
  the whole curve, since the target notes the best quality that it has answered so far. It is what the attack saw: of the
  surrogate where that is what it asked, and before projection and rounding where it is another library's;
* **transfer** (`transfers`, `transfer_matrix`): crafted on A, scored on B.

Signs that a robustness is not real are in [flags.md](flags.md).

## Certified measures

{{ certified }}

## As other benchmarks measure

`iqarena.bench.metrics.other_benchmarks` has the definitions of two other benchmarks as they stand in their code, under their names, for comparing with
their numbers. Fed the per-image scores that the MSU benchmark publishes, `iqarena.bench.metrics.other_benchmarks.msu` gives that benchmark's own
aggregates (`tests/metrics/test_other_benchmarks.py`).
{% for p in peers %}
### iqarena.bench.metrics.other_benchmarks.{{ p.name }}

{{ p.about }}
{% endfor %}""",
    keep_trailing_newline=True,
)

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
    """docs/measures.md as it should be."""
    page: str = _PAGE.render(
        measures=[_measure(measure) for measure in MEASURES],
        columns=SUMMARY,
        images=IMAGES,
        resamples=f"{RESAMPLES:,}",
        compared=f"{COMPARED:,}",
        certified=_function(measure_certificates),
        peers=[{"name": made.__name__, "about": _function(made)} for made in (peers.msu, peers.guardians)],
    )
    return re.sub(r"\n{3,}", "\n\n", page).rstrip() + "\n"


def _measure(measure: Measure) -> dict[str, Any]:
    what, formula, rest = (inspect.getdoc(measure) or "").split("\n\n")
    return {"name": measure.__name__, "what": cell(what), "formula": cell(formula), "rest": cell(rest)}


def _function(made: Any) -> str:
    doc = docstring_parser.parse(inspect.getdoc(made) or "")
    returned = doc.returns.description if doc.returns else ""
    return prose(doc.short_description, doc.long_description, returned).replace("``", "`")
