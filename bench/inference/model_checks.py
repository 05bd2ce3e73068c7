"""The probe: what a model does with a dozen images, against what it says of itself.

Run on every model that enters an evaluator, and by ``iqarena check``. Images are three natural ones of skimage's, of odd
height and unequal sides, each also under noise, blur and JPEG; and black, grey and white ones of the model's least size.
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
from iqarena.bench.inference.target import frozen
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.zoo import state_sha256

SCENES = ("astronaut", "coffee", "chelsea")
WORSE = (("white-noise", 4), ("gaussian-blur", 4), ("jpeg", 5))
SIDE = 129
"""Least height of the natural images; the width is 48 more."""
_LONGEST = 200
"""Letters of what a check raised that are shown."""

REPEATED = 1e-5
"""Two scores of one image are the same within this share of the score range (or of the score, where that is more).

float32 sums in another order, as other batch sizes and thread counts have them, differ by some 1e-6 of it after fifty
layers; statistics of the batch, or random numbers, change a score by 1e-3 of it or more.
"""

BEYOND, BEYOND_FLAT = 0.5, 2.0
"""How far, in ranges, qualities of natural and of flat images may lie outside of [0, 1].

Models of one linear output have no bounds, and a flat image is like nothing that they were trained on.
"""

LEAST_SPREAD = 0.05
"""Qualities from pristine to badly distorted cover at least this share of [0, 1]; less is a range meant for other scores."""

AGREES = 0.3
"""How far a finite difference may lie from what the gradient predicts, as a share of it.

Networks bend within a step that is large enough to be seen in float32. A gradient of something else is off by a multiple.
"""

STEPS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Predicted changes, in ranges, for which differences are taken: a network bends within the longer steps, and the shorter
ones drown in float32, so the step that agrees best counts."""

_Measured = tuple[bool, str]


@functools.cache
def _scene(name: str) -> Image.Image:
    from skimage import data

    return Image.fromarray(np.asarray(getattr(data, name)()))


@functools.lru_cache(maxsize=4)
def natural(height: int, width: int) -> torch.Tensor:
    """Twelve images (12, 3, height, width) in [0, 1]: three pristine, then all three under noise, blur and JPEG."""
    pristine = [np.array(ImageOps.fit(_scene(name), (width, height))) for name in SCENES]
    by_name = {distortion.name: distortion for distortion in DISTORTIONS}
    worse = [by_name[name].apply(p, level, np.random.RandomState(0)) for name, level in WORSE for p in pristine]
    return torch.from_numpy(np.stack([*pristine, *worse])).permute(0, 3, 1, 2).float().contiguous() / 255


def flat(side: int) -> torch.Tensor:
    """Black, grey and white (3, 3, side, side)."""
    return torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, side, side).contiguous()


class _NoGradient(Exception):
    """The score has no graph, or one that does not reach the pixels."""


class _Subject:
    """A model with its images, and what several checks look at."""

    def __init__(self, model: QualityModel, agrees: float) -> None:
        self.model, self.agrees = model, agrees
        height = max(SIDE, model.info.min_size)
        self.images = natural(height, height + 48)
        self.flat = flat(model.info.min_size)
        low, high = model.info.score_range
        self.width = high - low

    def ask(self, images: torch.Tensor) -> torch.Tensor:
        """Raw scores, under one seed where the model draws."""
        if self.model.info.stochastic:
            torch.manual_seed(0)
        scores: torch.Tensor = self.model(images)
        return scores

    def scores(self, images: torch.Tensor, together: int = 3) -> torch.Tensor:
        """Raw scores without a graph, so many images at once."""
        with torch.inference_mode():
            return torch.cat([self.ask(group.clone()) for group in images.split(together)])

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
        """Of the first natural image."""
        return self.gradient_of(self.images[:1])

    def gradient_of(self, images: torch.Tensor) -> torch.Tensor:
        """Of the scores by the images.

        Raises:
            _NoGradient: where none reaches them.
        """
        with torch.enable_grad():
            leaf = images.clone().requires_grad_()
            scores = self.ask(leaf)
            found = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
        if found is None:
            raise _NoGradient
        return found

    def apart(self, some: torch.Tensor, others: torch.Tensor) -> float:
        """The largest difference of two lists of scores, as a share of the range or of the score."""
        return float(((some - others).abs() / others.abs().clamp(min=self.width)).max())


def _shape(subject: _Subject) -> _Measured:
    scores, alone = subject.three, subject.scores(subject.images[:1])
    seen = f"{tuple(scores.shape)} for three images, {tuple(alone.shape)} for one"
    return scores.shape == (3,) and alone.shape == (1,), seen


def _dtype(subject: _Subject) -> _Measured:
    scores, asked = subject.three, subject.images
    seen = f"{asked.dtype} on {asked.device} in, {scores.dtype} on {scores.device} out".replace("torch.", "")
    return scores.dtype == asked.dtype and scores.device == asked.device, seen


def _finite(subject: _Subject) -> _Measured:
    finite, count = int(subject.natural_scores.isfinite().sum()), len(subject.natural_scores)
    return finite == count, f"{finite} of {count} scores of natural images"


def _flat(subject: _Subject) -> _Measured:
    found = {"scores": subject.flat_scores}
    if subject.model.info.differentiable:
        found["gradients"] = subject.gradient_of(subject.flat).flatten(1).sum(1)
    colours, side = ("black", "grey", "white"), subject.model.info.min_size
    broken = [f"{what} of {colours[i]}" for what, values in found.items() for i in torch.where(~values.isfinite())[0]]
    return not broken, f"not finite at {side}×{side}: {', '.join(broken)}" if broken else f"finite {' and '.join(found)}"


def _range(subject: _Subject) -> _Measured:
    least, most = _ends(subject, subject.natural_scores)
    ok = least >= -BEYOND and most <= 1 + BEYOND and most - least >= LEAST_SPREAD
    seen = f"qualities {least:.2f} to {most:.2f}"
    if subject.flat_scores.isfinite().any():
        lowest, highest = _ends(subject, subject.flat_scores)
        ok = ok and lowest >= -BEYOND_FLAT and highest <= 1 + BEYOND_FLAT
        seen += f"; of flat images {lowest:.2f} to {highest:.2f}"
    return ok, seen


def _ends(subject: _Subject, scores: torch.Tensor) -> tuple[float, float]:
    """Least and greatest quality; what is not finite is another check's."""
    qualities = subject.model.to_quality(scores[scores.isfinite()])
    return (float(qualities.min()), float(qualities.max())) if len(qualities) else (math.nan, math.nan)


def _direction(subject: _Subject) -> _Measured:
    qualities = subject.model.to_quality(subject.natural_scores).view(1 + len(WORSE), len(SCENES))
    pristine, worse = float(qualities[0].mean()), float(qualities[1:].mean())
    return pristine > worse, f"mean quality {pristine:.2f} of pristine images, {worse:.2f} of distorted ones"


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
    # of the ways to other images, blurred ones among them, the one least across the gradient: where they are at right
    # angles, next to nothing is predicted, and the network's bends are all that is seen
    ways = [other - image for other in subject.images[1:, None].double()]
    way = max(ways, key=lambda way: abs(float((gradient * way).sum())) / max(float(way.norm()), 1e-12))
    along = _agreement(subject, image, gradient, gradient)
    toward = _agreement(subject, image, gradient, way)
    seen = f"seen {along:.2f} of what it predicts along itself, {toward:.2f} towards another image"
    return max(abs(along - 1), abs(toward - 1)) <= subject.agrees, seen


def _agreement(subject: _Subject, image: torch.Tensor, gradient: torch.Tensor, way: torch.Tensor) -> float:
    """The change of the score along `way` as a share of what the gradient predicts, at the step where they agree best."""
    predicted = float((gradient * way).sum())
    if not predicted:
        return math.nan
    farthest = 1 / float(way.abs().max())
    steps = [min(amount * subject.width / abs(predicted), farthest) for amount in STEPS]
    ends = torch.cat([image + side * step * way for step in steps for side in (0.5, -0.5)]).float()
    above, below = subject.scores(ends, together=1).double().view(len(steps), 2).unbind(1)
    shares = (above - below) / (torch.tensor(steps, dtype=torch.float64) * predicted)
    return float(shares[(shares - 1).abs().argmin()])


def _eval(subject: _Subject) -> _Measured:
    subject.scores(subject.images[:1])
    training = [name or "the model" for name, module in subject.model.named_modules() if module.training]
    return not training, f"in training mode after scoring: {', '.join(training[:3])}" if training else "kept by every part"


def _batch(subject: _Subject) -> _Measured:
    if subject.model.info.stochastic:
        return True, "not asked: the model draws random numbers"
    apart = subject.apart(subject.scores(subject.images[:3], together=1), subject.three)
    return apart <= REPEATED, f"scores of three images and one by one differ by {apart:.1g} of the range"


def _repeats(subject: _Subject) -> _Measured:
    scores = []
    with torch.inference_mode():
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            scores.append(subject.model(subject.images[:1].clone()))
    again, other = subject.apart(scores[1], scores[0]), subject.apart(scores[2], scores[0])
    seen = f"scores of one image differ by {again:.1g} of the range under one seed, by {other:.1g} under two"
    return again <= REPEATED and (other > REPEATED) == subject.model.info.stochastic, seen


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
        for reseed in (torch.manual_seed, np.random.seed, random.seed):  # a model that sets a seed leaves what it set before
            reseed(seed)
        before = random_streams()
        with torch.inference_mode():
            subject.model(subject.images[:1].clone())
        after.append(random_streams())
        moved |= {name for name, state in after[-1].items() if state != before[name]}
    if subject.model.info.stochastic and after[0]["torch"] != after[1]["torch"]:  # it may draw, but not set a seed
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
    """What the model does, check by check; its mode and the global random streams are left as they were.

    A model that raises on a natural image has the one finding ``runs``.

    Args:
        model: to be looked at.
        checks: names of those that are made.
        agrees: as `AGREES`, for this model.
    """
    with streams_kept(), frozen(model):
        subject = _Subject(model, agrees)
        height, width = subject.images.shape[-2:]
        try:
            subject.scores(subject.images[:1])
        except (Exception, SystemExit) as error:
            return [
                Finding(
                    "runs",
                    False,
                    f"{describe(error)[:_LONGEST]} on an image of {width}×{height}",
                    "score images of any size",
                )
            ]
        runs = Finding("runs", True, f"scores a natural image of {width}×{height}")
        return [runs, *(_checked(subject, *check) for check in _CHECKS if check[0] in checks)]


_probed: dict[tuple[ModelInfo, str, str], dict[str, Any]] = {}


def probed(model: QualityModel) -> dict[str, Any]:
    """What a record keeps of the probe; each model is probed once in a process."""
    key = (model.info, source_hash(model), model.info.weights_sha256 or state_sha256(model))
    if key not in _probed:
        _probed[key] = for_record(probe(model))
    return _probed[key]


def _checked(subject: _Subject, name: str, look: Callable[[_Subject], _Measured], advice: str) -> Finding:
    try:
        ok, measured = look(subject)
    except (Exception, SystemExit) as error:
        ok, measured = False, describe(error)[:_LONGEST]
    subject.model.eval()  # one check must not spoil the next
    return Finding(name, ok, measured, advice)
