"""Checks of a model: its behaviour on a dozen images is compared with what it declares.

They are run on every model that enters an evaluator, and by ``iqarena check``. The images are three natural images of
skimage, with an odd height and unequal sides, each also under noise, blur and JPEG, and black, grey and white images of the
model's minimum size.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from iqarena.bench.code_hash import source_hash
from iqarena.bench.datasets.demo.distortions import DISTORTIONS
from iqarena.bench.errors import describe
from iqarena.bench.inference.finding import Finding, for_record
from iqarena.bench.inference.isolation import random_streams, streams_kept
from iqarena.bench.inference.process_state import settled
from iqarena.bench.inference.target import frozen
from iqarena.bench.process import asks_to_stop
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.zoo import state_sha256

SCENES = ("astronaut", "coffee", "chelsea")
DISTORTED = (("white-noise", 4), ("gaussian-blur", 4), ("jpeg", 5))
SIDE = 129
"""Minimum height of the natural images; the width is 48 more."""
_LONGEST = 200
"""Maximum number of characters of an error message that are shown."""

REPEATED = 1e-5
"""Relative tolerance within which two scores of one image are the same, as a share of the score range or, if that is
larger, of the score.

float32 sums in another order, due to other batch sizes and numbers of threads, differ by about 1e-6 of it after fifty
layers; batch statistics, or random numbers, change a score by 1e-3 of it or more.
"""

BEYOND, BEYOND_FLAT = 0.5, 2.0
"""Tolerated distance of qualities from [0, 1], in score ranges, for natural and for flat images.

A model with a linear output is not bounded, and flat images are far from its training images.
"""

LEAST_SPREAD = 0.05
"""Minimum share of [0, 1] that the qualities of pristine to severely distorted images cover; if they cover less, the
declared score range is that of other scores."""

AGREES = 0.3
"""Maximum relative error between a finite difference and the change that the gradient predicts.

Networks are not linear within a step that is large enough for float32. The gradient of another function is wrong by a
multiple.
"""

STEPS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Predicted changes, in score ranges, for which finite differences are computed. A network is not linear within the longer
steps, and rounding errors of float32 dominate the shorter ones, so the step with the best agreement is used."""

_Measured = tuple[bool, str]


@functools.cache
def _photograph(name: str) -> Image.Image:
    from skimage import data

    return Image.fromarray(np.asarray(getattr(data, name)()))


@functools.lru_cache(maxsize=4)
def natural(height: int, width: int) -> torch.Tensor:
    """Return twelve images (12, 3, height, width) in [0, 1]: three pristine, then all three under noise, blur and JPEG."""
    pristine = [np.array(ImageOps.fit(_photograph(name), (width, height))) for name in SCENES]
    by_name = {distortion.name: distortion for distortion in DISTORTIONS}
    distorted = [by_name[name].apply(p, level, np.random.RandomState(0)) for name, level in DISTORTED for p in pristine]
    return torch.from_numpy(np.stack([*pristine, *distorted])).permute(0, 3, 1, 2).float().contiguous() / 255


def flat(side: int) -> torch.Tensor:
    """Return a black, a grey and a white image, (3, 3, side, side)."""
    return torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, side, side).contiguous()


class _NoGradient(Exception):
    """The score has no graph, or its graph does not reach the pixels."""


class _Subject:
    """A model under test with its images, and results that several checks share."""

    def __init__(self, model: QualityModel, agrees: float) -> None:
        self.model, self.agrees = model, agrees
        height = max(SIDE, model.info.min_size)
        self.images = natural(height, height + 48)
        self.flat = flat(model.info.min_size)
        low, high = model.info.score_range
        self.width = high - low

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return raw scores, under a fixed seed if the model is stochastic."""
        if self.model.info.stochastic:
            torch.manual_seed(0)
        scores: torch.Tensor = self.model(images)
        return scores

    def scores(self, images: torch.Tensor, batch: int = 3) -> torch.Tensor:
        """Return raw scores without a graph, in batches."""
        with torch.inference_mode():
            return torch.cat([self.forward(group.clone()) for group in images.split(batch)])

    @functools.cached_property
    def three(self) -> torch.Tensor:
        return self.scores(self.images[:3])

    @functools.cached_property
    def natural_scores(self) -> torch.Tensor:
        return torch.cat([self.three, self.scores(self.images[3:])])

    @functools.cached_property
    def flat_scores(self) -> torch.Tensor:
        return self.scores(self.flat)

    @functools.cached_property
    def gradient(self) -> torch.Tensor:
        """Gradient of the score of the first natural image."""
        return self.gradient_of(self.images[:1])

    def gradient_of(self, images: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the scores with respect to the images.

        Raises:
            _NoGradient: if no gradient reaches the images.
        """
        with torch.enable_grad():
            leaf = images.clone().requires_grad_()
            scores = self.forward(leaf)
            gradient = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
        if gradient is None:
            raise _NoGradient
        return gradient

    def difference(self, scores: torch.Tensor, expected: torch.Tensor) -> float:
        """Return the largest difference of two lists of scores, as a share of the score range or of the score."""
        return float(((scores - expected).abs() / expected.abs().clamp(min=self.width)).max())


def _shape(subject: _Subject) -> _Measured:
    scores, single = subject.three, subject.scores(subject.images[:1])
    measured = f"{tuple(scores.shape)} for three images, {tuple(single.shape)} for one"
    return scores.shape == (3,) and single.shape == (1,), measured


def _dtype(subject: _Subject) -> _Measured:
    scores, images = subject.three, subject.images
    measured = f"{images.dtype} on {images.device} in, {scores.dtype} on {scores.device} out".replace("torch.", "")
    return scores.dtype == images.dtype and scores.device == images.device, measured


def _finite(subject: _Subject) -> _Measured:
    finite, count = int(subject.natural_scores.isfinite().sum()), len(subject.natural_scores)
    return finite == count, f"{finite} of {count} scores of natural images"


def _flat(subject: _Subject) -> _Measured:
    outputs = {"scores": subject.flat_scores}
    if subject.model.info.differentiable:
        outputs["gradients"] = subject.gradient_of(subject.flat).flatten(1).sum(1)
    colours, side = ("black", "grey", "white"), subject.model.info.min_size
    broken = [f"{name} of {colours[i]}" for name, values in outputs.items() for i in torch.where(~values.isfinite())[0]]
    return not broken, f"not finite at {side}×{side}: {', '.join(broken)}" if broken else f"finite {' and '.join(outputs)}"


def _range(subject: _Subject) -> _Measured:
    least, most = _ends(subject, subject.natural_scores)
    ok = least >= -BEYOND and most <= 1 + BEYOND and most - least >= LEAST_SPREAD
    measured = f"qualities {least:.2f} to {most:.2f}"
    if subject.flat_scores.isfinite().any():
        lowest, highest = _ends(subject, subject.flat_scores)
        ok = ok and lowest >= -BEYOND_FLAT and highest <= 1 + BEYOND_FLAT
        measured += f"; of flat images {lowest:.2f} to {highest:.2f}"
    return ok, measured


def _ends(subject: _Subject, scores: torch.Tensor) -> tuple[float, float]:
    """Return the minimum and maximum quality of finite scores; other scores are covered by another check."""
    qualities = subject.model.to_quality(scores[scores.isfinite()])
    return (float(qualities.min()), float(qualities.max())) if len(qualities) else (math.nan, math.nan)


def _direction(subject: _Subject) -> _Measured:
    qualities = subject.model.to_quality(subject.natural_scores).view(1 + len(DISTORTED), len(SCENES))
    pristine, distorted = float(qualities[0].mean()), float(qualities[1:].mean())
    return pristine > distorted, f"mean quality {pristine:.2f} of pristine images, {distorted:.2f} of distorted ones"


def _gradient(subject: _Subject) -> _Measured:
    if not subject.model.info.differentiable:
        return True, "none, as it says: attacks that need one are skipped"
    try:
        gradient = subject.gradient
    except _NoGradient:
        return False, "none reaches the pixels"
    if not gradient.isfinite().all():
        return False, "not finite"
    parts = [part for half in gradient.tensor_split(2, dim=-2) for part in half.tensor_split(2, dim=-1)]
    empty = not all(part.abs().amax() > 0 for part in (*parts, *gradient.unbind(1)))
    share = float((gradient != 0).float().mean())
    return not empty, f"reaches {share:.0%} of the values" + (", a quarter or a colour not at all" if empty else "")


def _slope(subject: _Subject) -> _Measured:
    if not subject.model.info.differentiable:
        return True, "not asked: not differentiable"
    try:
        gradient = subject.gradient.double()
    except _NoGradient:
        return False, "no gradient to compare"
    image = subject.images[:1].double()
    # of the directions to the other images, blurred ones included, the one with the smallest angle to the gradient: in an
    # orthogonal direction the gradient predicts almost no change, and only the curvature of the network would be measured
    directions = [other - image for other in subject.images[1:, None].double()]
    direction = max(directions, key=lambda d: abs(float((gradient * d).sum())) / max(float(d.norm()), 1e-12))
    along = _agreement(subject, image, gradient, gradient)
    toward = _agreement(subject, image, gradient, direction)
    measured = f"seen {along:.2f} of what it predicts along itself, {toward:.2f} towards another image"
    return max(abs(along - 1), abs(toward - 1)) <= subject.agrees, measured


def _agreement(subject: _Subject, image: torch.Tensor, gradient: torch.Tensor, direction: torch.Tensor) -> float:
    """Return the change of the score in a direction as a share of the predicted change, at the step that agrees best."""
    predicted = float((gradient * direction).sum())
    if not predicted:
        return math.nan
    farthest = 1 / float(direction.abs().max())
    steps = [min(amount * subject.width / abs(predicted), farthest) for amount in STEPS]
    ends = torch.cat([image + sign * step * direction for step in steps for sign in (0.5, -0.5)]).float()
    above, below = subject.scores(ends, batch=1).double().view(len(steps), 2).unbind(1)
    shares = (above - below) / (torch.tensor(steps, dtype=torch.float64) * predicted)
    return float(shares[(shares - 1).abs().argmin()])


def _eval(subject: _Subject) -> _Measured:
    subject.scores(subject.images[:1])
    training = [name or "the model" for name, module in subject.model.named_modules() if module.training]
    return not training, f"in training mode after scoring: {', '.join(training[:3])}" if training else "kept by every part"


def _batch(subject: _Subject) -> _Measured:
    if subject.model.info.stochastic:
        return True, "not asked: the model draws random numbers"
    difference = subject.difference(subject.scores(subject.images[:3], batch=1), subject.three)
    return difference <= REPEATED, f"scores of three images and one by one differ by {difference:.1g} of the range"


def _repeats(subject: _Subject) -> _Measured:
    scores = []
    with torch.inference_mode():
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            scores.append(subject.model(subject.images[:1].clone()))
    same_seed, other_seed = subject.difference(scores[1], scores[0]), subject.difference(scores[2], scores[0])
    measured = f"scores of one image differ by {same_seed:.1g} of the range under one seed, by {other_seed:.1g} under two"
    return same_seed <= REPEATED and (other_seed > REPEATED) == subject.model.info.stochastic, measured


def _input(subject: _Subject) -> _Measured:
    images = subject.images[:2].clone()
    with torch.inference_mode():
        subject.model(images)
    changed = float((images - subject.images[:2]).abs().max())
    return changed == 0, f"changed by up to {changed:.3f}" if changed else "left as they were"


def _weights(subject: _Subject) -> _Measured:
    before = {name: value.detach().clone() for name, value in _state(subject.model)}
    subject.scores(subject.images[:2])
    changed = [name for name, value in _state(subject.model) if name not in before or not torch.equal(value, before[name])]
    return not changed, f"changed by scoring: {', '.join(changed[:3])}" if changed else f"{len(before)} left as they were"


def _state(model: QualityModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _random_state(subject: _Subject) -> _Measured:
    moved, after = set(), []
    for seed in (1, 2):
        # a model that sets a seed itself leaves the same state in both rounds
        for reseed in (torch.manual_seed, np.random.seed, random.seed):
            reseed(seed)
        before = random_streams()
        with torch.inference_mode():
            subject.model(subject.images[:1].clone())
        after.append(random_streams())
        moved |= {name for name, state in after[-1].items() if state != before[name]}
    # a stochastic model may draw from torch's stream, but not set its seed
    if subject.model.info.stochastic and after[0]["torch"] != after[1]["torch"]:
        moved.discard("torch")
    return not moved, f"of {' and '.join(sorted(moved))} moved" if moved else "left as they were"


_CHECKS: tuple[tuple[str, Callable[[_Subject], _Measured], str], ...] = (
    ("shape", _shape, "return one score an image, (N,), for any N, height and width"),
    ("dtype and device", _dtype, "compute and return what came in, float32 on the images' own device"),
    ("finite", _finite, "look for a division by zero, or a root or logarithm of nothing"),
    ("flat images", _flat, "keep divisions and roots away from zero: flat areas have no variance; or raise min_size"),
    ("range", _range, "set score_range to the raw scores that mean worst and best"),
    ("direction", _direction, "set higher_is_better the other way, unless the model is not trained"),
    ("gradient", _gradient, "let it through (no detach, no_grad, NumPy, rounding), or say differentiable=False"),
    ("slope", _slope, "the gradient is another function's: look for detach and for backward passes of your own"),
    ("eval mode", _eval, "do not call train() in forward"),
    ("batch", _batch, "let no image's score depend on the others: no statistics over the batch"),
    ("repeats", _repeats, "say stochastic=True exactly if it draws random numbers, from torch's global stream"),
    ("input", _input, "do not write into the images; work on a copy"),
    ("weights", _weights, "keep no running state in forward"),
    ("random state", _random_state, "set no seed in forward, and draw from torch's global stream only"),
)


NAMES = tuple(name for name, _, _ in _CHECKS)


def probe(model: QualityModel, checks: Collection[str] = NAMES, agrees: float = AGREES) -> list[Finding]:
    """Run checks on a model; its mode and the global random streams are restored.

    For a model that raises an exception on a natural image, the only finding is ``runs``.

    Args:
        model: the model.
        checks: names of the checks to run.
        agrees: tolerance in place of `AGREES`.
    """
    with settled(), streams_kept(), frozen(model):
        subject = _Subject(model, agrees)
        height, width = subject.images.shape[-2:]
        try:
            subject.scores(subject.images[:1])
        except BaseException as error:
            if asks_to_stop(error):
                raise
            return [
                Finding(
                    "runs",
                    False,
                    f"{describe(error)[:_LONGEST]} on an image of {width}×{height}",
                    "score images of any size",
                )
            ]
        runs = Finding("runs", True, f"scores a natural image of {width}×{height}")
        return [runs, *(_run_check(subject, *check) for check in _CHECKS if check[0] in checks)]


_probed: dict[tuple[ModelInfo, str, str], dict[str, Any]] = {}


def probed(model: QualityModel) -> dict[str, Any]:
    """Return the findings of `probe` as entries of a record; each model is checked once per process."""
    key = (model.info, source_hash(model), model.info.weights_sha256 or state_sha256(model))
    if key not in _probed:
        _probed[key] = for_record(probe(model))
    return _probed[key]


def _run_check(subject: _Subject, name: str, check: Callable[[_Subject], _Measured], advice: str) -> Finding:
    try:
        ok, measured = check(subject)
    except BaseException as error:
        if asks_to_stop(error):
            raise
        ok, measured = False, describe(error)[:_LONGEST]
    subject.model.eval()  # one check must not affect the next
    return Finding(name, ok, measured, advice)
