"""Measures the facts that a bridged model does not declare:

score_range        the 1st and the 99th percentile of its scores on 120 images of `demo`: the 12 pristine images, and 108
                   distorted ones, chosen evenly over the references
higher_is_better   the sign of the SROCC of these scores with the pseudo-MOS, which must be clear
min_size           the smallest of some common sides at which it can score a natural image
differentiable     whether a finite, non-zero gradient reaches the pixels of a natural image
stochastic         whether a natural image has different scores under two seeds of torch
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import UserError, describe
from iqarena.bench.inference.isolation import streams_kept
from iqarena.bench.inference.model_checks import REPEATED, natural
from iqarena.models.bridges import Bridge, BridgedInfo, Facts

Reals = NDArray[np.float64]

IMAGES = 120
SIDES = (32, 48, 64, 96, 128, 192, 224, 256, 384, 512)

CLEAR = 0.3
"""|SROCC| above which the direction is clear: more than three standard errors of 120 independent pairs."""

_GIVE_BOTH = "give low=, high= and higher_is_better= in brackets"


def measure_info(model: Bridge, given: Facts) -> BridgedInfo:
    """Return the complete info of a bridged model from given facts, else its declared facts, else measured ones.

    Raises:
        UserError: if a fact can be neither found nor measured.
    """
    if (given.low is None) != (given.high is None):
        raise UserError(f"{model.info.name}: give both low= and high=, or neither")
    facts = given.or_else(model.stated)
    with streams_kept():
        least = _least_side(model) if facts.min_size is None else facts.min_size
        scores = labels = np.empty(0)
        if facts.low is None or facts.higher_is_better is None:
            scores, labels = _on_demo(model)
        low, high = _range(model, scores) if facts.low is None or facts.high is None else (facts.low, facts.high)
        higher = _direction(model, scores, labels) if facts.higher_is_better is None else facts.higher_is_better
        image = natural(max(least, 128), max(least, 128))[:1]
        try:
            return BridgedInfo(
                model.info.name,
                (low, high),
                higher,
                least,
                differentiable=model.differentiable and _has_gradient(model, image),
                stochastic=_is_stochastic(model, image, high - low),
                weights_sha256=model.sha256,
                licence=model.info.licence,
                sources=_sources(given, model.stated),
            )
        except ValueError as error:
            raise UserError(str(error)) from None


def _sources(given: Facts, stated: Facts) -> str:
    """Describe the source of each fact."""
    methods = {
        "score_range": ("low", f"1st and 99th percentile of the scores of {IMAGES} demo images"),
        "higher_is_better": ("higher_is_better", f"SROCC with the pseudo-MOS of {IMAGES} demo images"),
        "min_size": ("min_size", f"the least of {', '.join(map(str, SIDES))} that works"),
    }
    sources = []
    for fact, (field, method) in methods.items():
        source = method if getattr(stated, field) is None else "its own word"
        sources.append(f"{fact}: {source if getattr(given, field) is None else 'given'}")
    return "; ".join(sources)


def _score(model: Bridge, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    with torch.inference_mode():
        scores: torch.Tensor = model(images.clone())
    if not scores.isfinite().all():
        raise ValueError(f"a score is {float(scores[~scores.isfinite()][0])}")
    return scores


def _least_side(model: Bridge) -> int:
    problem = ""
    for side in SIDES:
        try:
            _score(model, natural(side, side)[:1])
        except Exception as error:
            problem = describe(error)
        else:
            return side
    raise UserError(f"{model.info.name}: scores no image of {SIDES[0]}×{SIDES[0]} to {SIDES[-1]}×{SIDES[-1]} ({problem})")


def _on_demo(model: Bridge) -> tuple[Reals, Reals]:
    """Return scores and labels of some images of the demo data set."""
    demo = Demo()
    pristine = [i for i, sample in enumerate(demo.samples) if sample.image_id.endswith("-pristine")]
    distorted = [i for i in demo.spread(IMAGES) if i not in pristine]
    chosen = (pristine + distorted)[:IMAGES]
    images = [demo.image(i)[None].float() / 255 for i in chosen]
    try:
        scores = [float(_score(model, image)) for image in images]
    except Exception as error:
        raise UserError(f"{model.info.name}: fails on demo images ({describe(error)}); {_GIVE_BOTH}") from None
    return np.array(scores), np.array([demo.mos(i) for i in chosen])


def _range(model: Bridge, scores: Reals) -> tuple[float, float]:
    """Return the percentiles, rounded to a hundredth of their distance or less.

    Otherwise differences between machines in the last digits would change the ids of cells.
    """
    low, high = (float(value) for value in np.percentile(scores, [1, 99]))
    if not high - low > 1e-6 * abs(high):
        raise UserError(f"{model.info.name}: all demo images score about {low:.4g}; {_GIVE_BOTH}")
    digits = 2 - math.floor(math.log10(high - low))
    return round(low, digits), round(high, digits)


def _direction(model: Bridge, scores: Reals, labels: Reals) -> bool:
    srocc = float(stats.spearmanr(scores, labels).statistic)
    if not abs(srocc) >= CLEAR:
        raise UserError(
            f"{model.info.name}: which way its scores go is not clear (SROCC with demo's labels {srocc:.2f}); "
            "give higher_is_better= in brackets"
        )
    return srocc > 0


def _is_stochastic(model: Bridge, image: torch.Tensor, width: float) -> bool:
    first, second = (float(_score(model, image, seed)) for seed in (0, 1))
    return abs(first - second) > REPEATED * max(width, abs(first))


def _has_gradient(model: Bridge, image: torch.Tensor) -> bool:
    leaf = image.clone().requires_grad_()
    try:
        with torch.enable_grad():
            scores = model(leaf)
            gradient = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    except (RuntimeError, NotImplementedError):  # of an operator without a derivative
        return False
    return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.abs().amax() > 0)
