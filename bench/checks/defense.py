"""Check a defense against its own declaration: the deployed model, its surrogate and its certificate."""

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
from iqarena.bench.inference.process_state import settled
from iqarena.bench.inference.target import frozen
from iqarena.defenses.base import Defense, DoesNotApply, Kind, TrainedDefense
from iqarena.defenses.certified.base import CertifiedDefense
from iqarena.defenses.chain import Chain
from iqarena.models.base import QualityModel

GRADIENT = ("gradient", "slope")
"""Checks of `probe` that are made on the surrogate where it is not the deployed model itself."""

SAME = {"exact": 1e-4, "identity": 1e-4, "smooth": 0.15}
"""Largest difference between the scores of the surrogate and the deployed model on natural images, as a share of the range.

By kind of surrogate. An exact one *is* the deployed model, and BPDA has its values; float32 leaves about 1e-6. A smooth
surrogate of JPEG differs by a few hundredths of the range; a larger difference would mislead an attacker.
"""

AGREES = 0.6
"""As in `probe`, but for surrogates: medians and resampling are not linear within any step that float32 can resolve."""

SIZE = (SIDE, SIDE + 48)
"""Height and width of the natural images, as in `probe`."""

_Measured = tuple[bool, str]


def defense_facts(defense: Defense) -> dict[str, Any]:
    """Return what a defense declares."""
    return {
        "kind": defense.kind,
        "stochastic": "yes" if defense.stochastic else "no",
        "surrogate": defense.surrogate_kind,
        "paper": defense.paper,
    }


def check_defense(defense: Defense, models: tuple[str, ...]) -> list[Finding]:
    """Check a defense on the first of some shipped models that it applies to; the global random streams are left unchanged.

    Of a training recipe without weights only the model that it builds and its loss are checked.

    Returns:
        One finding per check.
    """
    declaration = [] if isinstance(defense, Chain) else declared(defense, paper_wanted=defense.kind != "none")
    findings = [*declaration, _class_attributes(defense)]
    if not findings[-1].ok:
        return findings
    with settled(), streams_kept():
        findings.extend(_check_applied(defense, models))
    return findings


def _class_attributes(defense: Defense) -> Finding:
    known = {"kind": get_args(Kind), "surrogate_kind": tuple(SAME), "stochastic": (True, False)}
    wrong = [
        f"{name} {getattr(defense, name, None)!r}, not one of {', '.join(map(str, values))}"
        for name, values in known.items()
        if getattr(defense, name, None) not in values
    ]
    measured = f"{defense.kind}; {defense.surrogate_kind}; stochastic={defense.stochastic}" if not wrong else wrong[0]
    return Finding("class attributes", not wrong, measured, "set kind, surrogate_kind and stochastic to known words")


def _check_applied(defense: Defense, models: tuple[str, ...]) -> Iterator[Finding]:
    """Apply the defense to the first model that it fits and check the result."""
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
        yield from _check_deployed(defense, model, deployed, before)
        return
    if isinstance(defense, TrainedDefense):
        yield Finding("applies", True, "no weights yet: looked at as a recipe only")
        yield _guarded(defense, load_model(models[-1]), None, "recipe", _recipe, _ADVICE["recipe"])
    else:
        yield Finding("applies", False, "; ".join(reasons), f"fit one of {', '.join(models)}, or say with --model which")


def _check_deployed(
    defense: Defense, model: QualityModel, deployed: QualityModel, before: dict[str, torch.Tensor]
) -> Iterator[Finding]:
    """Check the contract of models, then that of defenses, then the surrogate."""
    info = deployed.info
    if deployed is not model:  # it may draw if the defense declares so, and its gradient is checked on the surrogate
        deployed.info = replace(info, stochastic=defense.stochastic or info.stochastic, differentiable=False)
    yield from probe(deployed, [name for name in NAMES if name not in GRADIENT])
    deployed.info = info
    after = model.state_dict()
    changed = [name for name, value in before.items() if name not in after or not torch.equal(after[name], value)]
    measured = f"changed: {', '.join(changed[:3])}" if changed else "its weights are as they were"
    yield Finding("undefended model", not changed, measured, "work on a copy of the model (copy.deepcopy)")
    for name, check in _CHECKS.items():
        if name != "certificate" or isinstance(defense, CertifiedDefense):
            yield _guarded(defense, model, deployed, name, check, _ADVICE[name])
    try:
        surrogate = defense.surrogate(model)
    except Exception:
        return  # reported above
    if surrogate is not model:
        surrogate.info = replace(surrogate.info, stochastic=defense.stochastic or model.info.stochastic)
    checks = ("flat images", "gradient", *(("slope",) if defense.surrogate_kind == "exact" else ()))
    for finding in probe(surrogate, checks, AGREES):
        yield replace(finding, name=f"surrogate: {finding.name}")


def _guarded(
    defense: Any, model: QualityModel, deployed: QualityModel | None, name: str, check: Callable[..., _Measured], advice: str
) -> Finding:
    """Run a check; an exception is a failed finding, and DoesNotApply a skipped check."""
    try:
        return Finding(name, *check(defense, model, deployed), advice)
    except DoesNotApply as reason:
        return Finding(name, True, f"not asked: {reason}")
    except Exception as error:
        return Finding(name, False, describe(error), advice)


def _facts(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    changed = [
        fact for fact in ("score_range", "higher_is_better") if getattr(deployed.info, fact) != getattr(model.info, fact)
    ]
    return not changed, f"another {' and '.join(changed)}" if changed else "range and direction of the model's own"


def _seven(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    scores = _scores(deployed, natural(*SIZE)[:7])
    return scores.shape == (7,) and bool(scores.isfinite().all()), f"scores of shape {tuple(scores.shape)}"


def _twice(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    difference = _difference(defense.protect(model), deployed)
    return difference <= REPEATED, f"protected anew, scores differ by {difference:.1g} of the range"


class _Reversed(QualityModel):
    """A model with the same qualities and the opposite direction of raw scores."""

    def __init__(self, model: QualityModel) -> None:
        super().__init__()
        self.model = model
        self.info = replace(model.info, higher_is_better=not model.info.higher_is_better)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = sum(self.model.info.score_range) - self.model(images)
        return scores


def _both_directions(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    """Check that qualities do not depend on the direction of the raw scores."""
    images = natural(*SIZE)[:2]
    if isinstance(defense, TrainedDefense) and deployed is not model:
        return True, "not asked: its weights are for this model alone"
    qualities = [built.to_quality(_scores(built, images)) for built in (defense.protect(_Reversed(model)), deployed)]
    difference = float((qualities[0] - qualities[1]).abs().max())
    return difference <= 1e-4, f"qualities differ by {difference:.1g} where lower raw scores are better"


def _gpu(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    if not torch.cuda.is_available():
        return True, "not asked: there is none here"
    images = natural(*SIZE)[:2]
    scores = _scores(defense.protect(copy.deepcopy(model).cuda()).cuda(), images.cuda())
    difference = float((scores.cpu() - _scores(deployed, images)).abs().max()) / _width(model)
    # the GPU sums in another order, may use TF32, and draws other random numbers
    return scores.is_cuda and (difference <= 0.01 or defense.stochastic), f"scores differ by {difference:.1g} of the range"


def _surrogate(defense: Defense, model: QualityModel, deployed: QualityModel) -> _Measured:
    difference, kind = _difference(defense.surrogate(model), deployed), defense.surrogate_kind
    return difference <= SAME[kind], f"{kind}: its scores differ by {difference:.1g} of the range from the deployed ones"


def _certificate(defense: CertifiedDefense, model: QualityModel, deployed: QualityModel) -> _Measured:
    images = natural(*SIZE)[:2]
    with frozen(model), torch.inference_mode():
        torch.manual_seed(0)
        try:
            certificate = defense.certify(model, images, RADIUS)
        except ValueError as reason:  # the contract allows it
            return True, f"refuses ℓ2 {RADIUS:g}: {reason}"
    quality = deployed.to_quality(_scores(deployed, images))
    if not tuple(certificate.lower.shape) == tuple(certificate.upper.shape) == (len(images),):
        return (
            False,
            f"shapes {tuple(certificate.lower.shape)} and {tuple(certificate.upper.shape)} for {len(images)} images",
        )
    holds = bool((certificate.lower <= quality + 1e-4).all() and (quality <= certificate.upper + 1e-4).all())
    low, high, middle = (float(values[0]) for values in (certificate.lower, certificate.upper, quality))
    return holds, f"[{low:.3f}, {high:.3f}] around quality {middle:.3f} at ℓ2 {RADIUS:g}"


def _recipe(defense: TrainedDefense, model: QualityModel, deployed: None) -> _Measured:
    """Check that a training step is possible: the loss is finite and has a gradient for every weight."""
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
    "both directions": _both_directions,
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


def _difference(first: QualityModel, second: QualityModel) -> float:
    """Return the largest difference of two models' scores on two natural images, with one seed, as a share of the range."""
    images = natural(*SIZE)[:2]
    return float((_scores(first, images) - _scores(second, images)).abs().max()) / _width(second)


def _width(model: QualityModel) -> float:
    low, high = model.info.score_range
    return high - low
