"""The conduct of a defense, against what it says of itself: what it deploys, what it shows an attacker, what it proves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import torch

from iqarena.bench.checks.declaration import declared
from iqarena.bench.errors import describe
from iqarena.bench.evaluation.certification import RADIUS
from iqarena.bench.inference.finding import Finding
from iqarena.bench.inference.isolation import streams_kept
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.model_checks import NAMES, REPEATED, SIDE, natural, probe
from iqarena.bench.inference.target import frozen
from iqarena.defenses.base import Defense, DoesNotApply, Kind, TrainedDefense
from iqarena.defenses.certified.base import CertifiedDefense
from iqarena.defenses.chain import Chain
from iqarena.models.base import QualityModel

GRADIENT = ("gradient", "slope")
"""Checks of `probe` that are the surrogate's business, where it is not the deployed model itself."""

SAME = {"exact": 1e-4, "identity": 1e-4, "smooth": 0.15}
"""How far the surrogate's quality of a natural image may lie from the deployed model's, by kind of surrogate.

An exact one *is* the deployed model, and BPDA has its values; float32 leaves 1e-6 or so. A smooth one of JPEG is off by
some hundredths of the range; one that is off by more than this leads an attacker elsewhere.
"""

AGREES = 0.6
"""As in `probe`, for what a surrogate shows: medians and resampling bend within every step that float32 can see."""

SIZE = (SIDE, SIDE + 48)
"""Of the natural images, as `probe` has them."""

_Measured = tuple[bool, str]


def defense_facts(defense: Defense) -> dict[str, Any]:
    """What a defense says of itself."""
    return {
        "kind": defense.kind,
        "stochastic": "yes" if defense.stochastic else "no",
        "surrogate": defense.surrogate_kind,
        "paper": defense.paper,
    }


def probe_defense(defense: Defense, models: tuple[str, ...]) -> list[Finding]:
    """What a defense does to the first of some shipped models that it fits, check by check.

    A training recipe without weights is looked at as a recipe: what it builds, and its loss.
    """
    said = [] if isinstance(defense, Chain) else declared(defense, paper_wanted=defense.kind != "none")  # its links say it
    findings = [*said, _class_attributes(defense)]
    if not findings[-1].ok:
        return findings
    with streams_kept():
        findings.extend(_conduct(defense, models))
    return findings


def _class_attributes(defense: Defense) -> Finding:
    known = {"kind": get_args(Kind), "surrogate_kind": tuple(SAME), "stochastic": (True, False)}
    wrong = [
        f"{name} {getattr(defense, name, None)!r}, not one of {', '.join(map(str, words))}"
        for name, words in known.items()
        if getattr(defense, name, None) not in words
    ]
    seen = f"{defense.kind}; {defense.surrogate_kind}; stochastic={defense.stochastic}" if not wrong else wrong[0]
    return Finding("class attributes", not wrong, seen, "set kind, surrogate_kind and stochastic to known words")


def _conduct(defense: Defense, models: tuple[str, ...]) -> Iterator[Finding]:
    reasons = []
    for name in models:
        model = load_model(name)
        before = {name: value.detach().clone() for name, value in model.state_dict().items()}
        try:
            deployed = defense.protect(model)
        except DoesNotApply as reason:
            reasons.append(f"{name}: {reason}")
            continue
        except Exception as error:
            advice = "raise DoesNotApply, with the reason, where it does not fit"
            yield Finding("applies", False, f"{name}: {describe(error)}", advice)
            return
        if not isinstance(deployed, QualityModel):
            advice = "let protect() return a QualityModel, such as PurifiedModel(model, purify)"
            yield Finding("applies", False, f"{name}: protect returned {type(deployed).__name__}", advice)
            return
        yield Finding("applies", True, f"to {name}")
        yield from _looked_at(defense, model, deployed, before)
        return
    if isinstance(defense, TrainedDefense):
        yield Finding("applies", True, "no weights yet: looked at as a recipe only")
        yield _guarded(defense, load_model(models[-1]), None, "recipe", _recipe, _ADVICE["recipe"])
    else:
        yield Finding("applies", False, "; ".join(reasons), f"fit one of {', '.join(models)}, or say with --model which")


def _looked_at(
    defense: Defense, model: QualityModel, deployed: QualityModel, before: dict[str, torch.Tensor]
) -> Iterator[Finding]:
    """The contract of models, then what is a defense's own, then what an adaptive attacker gets."""
    info = deployed.info
    if deployed is not model:  # it may draw, as the harness allows it; and its gradient is looked at in the surrogate
        deployed.info = replace(info, stochastic=defense.stochastic or info.stochastic, differentiable=False)
    yield from probe(deployed, [name for name in NAMES if name not in GRADIENT])
    deployed.info = info
    after = model.state_dict()
    changed = [name for name, value in before.items() if name not in after or not torch.equal(after[name], value)]
    seen = f"changed: {', '.join(changed[:3])}" if changed else "its weights are as they were"
    yield Finding("undefended model", not changed, seen, "work on a copy of the model (copy.deepcopy)")
    for name, look in _CHECKS.items():
        if name != "certificate" or isinstance(defense, CertifiedDefense):
            yield _guarded(defense, model, deployed, name, look, _ADVICE[name])
    try:
        surrogate = defense.surrogate(model)
    except Exception:
        return  # has been found above
    if surrogate is not model:
        surrogate.info = replace(surrogate.info, stochastic=defense.stochastic or model.info.stochastic)
    wanted = ("flat images", "gradient", *(("slope",) if defense.surrogate_kind == "exact" else ()))
    for finding in probe(surrogate, wanted, AGREES):
        yield replace(finding, name=f"surrogate: {finding.name}")


def _guarded(
    defense: Any, model: QualityModel, deployed: QualityModel | None, name: str, look: Callable[..., _Measured], advice: str
) -> Finding:
    try:
        return Finding(name, *look(defense, model, deployed), advice)
    except DoesNotApply as reason:
        return Finding(name, True, f"not asked: {reason}")
    except Exception as error:
        return Finding(name, False, describe(error), advice)


def _facts(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    other = [
        fact for fact in ("score_range", "higher_is_better") if getattr(deployed.info, fact) != getattr(model.info, fact)
    ]
    return not other, f"another {' and '.join(other)}" if other else "range and direction of the model's own"


def _seven(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    scores = _scores(deployed, natural(*SIZE)[:7])
    return scores.shape == (7,) and bool(scores.isfinite().all()), f"scores of shape {tuple(scores.shape)}"


def _twice(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    apart = _apart(defense.protect(model), deployed)
    return apart <= REPEATED, f"protected anew, scores differ by {apart:.1g} of the range"


class _Turned(QualityModel):
    """The same qualities by raw scores that are better when they are lower."""

    def __init__(self, model: QualityModel) -> None:
        super().__init__()
        self.model = model
        self.info = replace(model.info, higher_is_better=not model.info.higher_is_better)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = sum(self.model.info.score_range) - self.model(images)
        return scores


def _turned(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    """Raw scores of another direction make no other qualities."""
    images = natural(*SIZE)[:2]
    if isinstance(defense, TrainedDefense) and deployed is not model:
        return True, "not asked: its weights are for this model alone"
    qualities = [made.to_quality(_scores(made, images)) for made in (defense.protect(_Turned(model)), deployed)]
    apart = float((qualities[0] - qualities[1]).abs().max())
    return apart <= 1e-4, f"qualities differ by {apart:.1g} where lower raw scores are better"


def _gpu(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    if not torch.cuda.is_available():
        return True, "not asked: there is none here"
    images = natural(*SIZE)[:2]
    scores = _scores(defense.protect(copy.deepcopy(model).cuda()).cuda(), images.cuda())
    apart = float((scores.cpu() - _scores(deployed, images)).abs().max()) / _width(model)
    # the GPU sums in another order and may use TF32, and its random numbers are others
    return scores.is_cuda and (apart <= 0.01 or defense.stochastic), f"scores differ by {apart:.1g} of the range"


def _surrogate(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    apart, kind = _apart(defense.surrogate(model), deployed), defense.surrogate_kind
    return apart <= SAME[kind], f"{kind}: its scores differ by {apart:.1g} of the range from the deployed ones"


def _certificate(defense: CertifiedDefense, model: QualityModel, deployed: QualityModel) -> _Measured:
    images = natural(*SIZE)[:2]
    with frozen(model), torch.inference_mode():
        torch.manual_seed(0)
        try:
            found = defense.certify(model, images, RADIUS)
        except ValueError as reason:  # as the contract allows
            return True, f"refuses ℓ2 {RADIUS:g}: {reason}"
    quality = deployed.to_quality(_scores(deployed, images))
    if not tuple(found.lower.shape) == tuple(found.upper.shape) == (len(images),):
        return False, f"shapes {tuple(found.lower.shape)} and {tuple(found.upper.shape)} for {len(images)} images"
    holds = bool((found.lower <= quality + 1e-4).all() and (quality <= found.upper + 1e-4).all())
    low, high, middle = (float(values[0]) for values in (found.lower, found.upper, quality))
    return holds, f"[{low:.3f}, {high:.3f}] around quality {middle:.3f} at ℓ2 {RADIUS:g}"


def _recipe(defense: TrainedDefense, model: QualityModel, deployed: None) -> _Measured:
    """One step of training is possible: the loss is a finite number that reaches every weight."""
    prepared = defense.prepare(model).train()
    torch.manual_seed(0)
    images = natural(*SIZE)[:2, :, :96, :96].contiguous()
    loss = defense.loss(prepared, images, torch.tensor([0.2, 0.9]), 0.5)
    if loss.shape != () or not loss.isfinite():
        return False, f"a loss of shape {tuple(loss.shape)}" if loss.shape != () else f"a loss of {float(loss)}"
    loss.backward()
    without = [name for name, weight in prepared.named_parameters() if weight.requires_grad and weight.grad is None]
    return not without, f"no gradient for {without[0]}" if without else f"a loss of {float(loss.detach()):.4g}"


_CHECKS: dict[str, Callable[..., _Measured]] = {
    "facts": _facts,
    "seven images": _seven,
    "twice": _twice,
    "both directions": _turned,
    "GPU": _gpu,
    "certificate": _certificate,
    "surrogate": _surrogate,
}

_ADVICE = {
    "facts": "keep score_range and higher_is_better: a defended model is compared with the undefended one",
    "seven images": "take any number of images at once",
    "twice": "draw nothing in protect(); what is drawn once and kept belongs in the parameters, as a seed",
    "both directions": "work with qualities (model.to_quality): raw scores may be better when they are lower",
    "GPU": "make tensors on the images' device, and let parts that have weights be modules of the model",
    "certificate": "let lower and upper (N,) hold the deployed quality, in quality units; ∓inf where nothing is known",
    "surrogate": "let surrogate() return a model of nearly the same scores, as near as surrogate_kind says",
    "recipe": "let loss() return a finite scalar that depends on the weights of the model that prepare() returned",
}


def _scores(model: QualityModel, images: torch.Tensor) -> torch.Tensor:
    with frozen(model), torch.inference_mode():
        torch.manual_seed(0)
        scores: torch.Tensor = model(images.clone())
    return scores


def _apart(one: QualityModel, other: QualityModel) -> float:
    """How far the scores of two models lie apart on two natural images, under one seed, as a share of the range."""
    images = natural(*SIZE)[:2]
    return float((_scores(one, images) - _scores(other, images)).abs().max()) / _width(other)


def _width(model: QualityModel) -> float:
    low, high = model.info.score_range
    return high - low
