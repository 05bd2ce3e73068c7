"""The conduct of a defense, against what it says of itself: what it deploys, what it shows an attacker, what it proves."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import torch

from bench.conformance import Finding
from bench.declared import declared
from bench.loading import load_model, told
from bench.probe import NAMES, REPEATED, natural, probe
from bench.streams import streams_kept
from bench.target import frozen
from defenses.base import Defense, DoesNotApply, Kind, TrainedDefense
from defenses.certified.base import CertifiedDefense
from models.base import QualityModel

GRADIENT = ("gradient", "slope")
"""Checks of `probe` that are the surrogate's business, where it is not the deployed model itself."""

SAME = {"exact": 1e-4, "identity": 1e-4, "smooth": 0.15}
"""How far the surrogate's quality of a natural picture may lie from the deployed model's, by kind of surrogate.

An exact one *is* the deployed model, and BPDA has its values; float32 leaves 1e-6 or so. A smooth one of JPEG is off by
some hundredths of the range; one that is off by more than this leads an attacker elsewhere.
"""

RADIUS = 0.05
"""ℓ2 length for which certificates are asked."""


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
    findings = [*declared(defense, paper_wanted=defense.kind != "none"), _class_attributes(defense)]
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
        before = _state(model)
        try:
            deployed = defense.protect(model)
        except DoesNotApply as reason:
            reasons.append(f"{name}: {reason}")
            continue
        except Exception as error:
            yield Finding(
                "applies", False, f"{name}: {told(error)}", "raise DoesNotApply, with the reason, where it does not fit"
            )
            return
        if not isinstance(deployed, QualityModel):
            advice = "let protect() return a QualityModel, such as PurifiedModel(model, purify)"
            yield Finding("applies", False, f"{name}: protect returned {type(deployed).__name__}", advice)
            return
        yield Finding("applies", True, f"to {name}")
        yield from _deployed(defense, model, deployed, before)
        yield from _shown(defense, model, deployed)
        if isinstance(defense, CertifiedDefense):
            yield _certified(defense, model, deployed)
        return
    if isinstance(defense, TrainedDefense):
        yield Finding("applies", True, "no weights yet: looked at as a recipe only")
        yield _recipe(defense, load_model(models[-1]))
    else:
        yield Finding("applies", False, "; ".join(reasons), f"fit one of {', '.join(models)}, or say with --model which")


def _state(model: QualityModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _deployed(
    defense: Defense, model: QualityModel, deployed: QualityModel, before: dict[str, torch.Tensor]
) -> Iterator[Finding]:
    """The protected model keeps to the contract of models, and the model that it was made of is as it was."""
    info = deployed.info
    if deployed is not model:  # it may draw, as the harness allows it; and its gradient is looked at in the surrogate
        deployed.info = replace(info, stochastic=defense.stochastic or info.stochastic, differentiable=False)
    yield from probe(deployed, [name for name in NAMES if name not in GRADIENT])
    deployed.info = info
    after = _state(model)
    changed = [name for name, value in before.items() if name not in after or not torch.equal(after[name], value)]
    seen = f"changed: {', '.join(changed[:3])}" if changed else "its weights are as they were"
    yield Finding("undefended model", not changed, seen, "work on a copy of the model (copy.deepcopy)")
    facts = [f for f in ("score_range", "higher_is_better") if getattr(info, f) != getattr(model.info, f)]
    yield Finding(
        "facts", not facts, f"another {' and '.join(facts)}" if facts else "range and direction of the model's own",
        "keep score_range and higher_is_better: a defended model is compared with the undefended one",
    )  # fmt: skip
    pictures = natural(129, 177)[:7]
    seven, apart = _scores(deployed, pictures), _apart(defense.protect(model), deployed, pictures[:2])
    yield Finding(
        "seven pictures", seven.shape == (7,) and bool(seven.isfinite().all()), f"scores of shape {tuple(seven.shape)}",
        "take any number of pictures at once",
    )  # fmt: skip
    yield Finding(
        "twice", apart <= REPEATED, f"protected anew, scores differ by {apart:.1g} of the range",
        "draw nothing in protect(); what is drawn once and kept belongs in the parameters, as a seed",
    )  # fmt: skip
    yield from (
        Finding(name, *look(defense, model, deployed)) for name, look in (("both directions", _turned), ("GPU", _gpu))
    )


class _Turned(QualityModel):
    """The same qualities by raw scores that are better when they are lower."""

    def __init__(self, model: QualityModel) -> None:
        super().__init__()
        self.model = model
        self.info = replace(model.info, higher_is_better=not model.info.higher_is_better)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = sum(self.model.info.score_range) - self.model(images)
        return scores


def _turned(defense: Defense, model: QualityModel, deployed: QualityModel) -> tuple[bool, str, str]:
    """Raw scores of another direction make no other qualities."""
    try:
        turned = defense.protect(_Turned(model))
    except DoesNotApply:
        return True, "not asked: it is for this model alone", ""
    pictures = natural(129, 177)[:2]
    qualities = [made.to_quality(_scores(made, pictures)) for made in (turned, deployed)]
    apart = float((qualities[0] - qualities[1]).abs().max())
    advice = "work with qualities (model.to_quality), not with raw scores, which may be better when they are lower"
    return apart <= 1e-4, f"qualities differ by {apart:.1g} where lower raw scores are better", advice


def _gpu(defense: Defense, model: QualityModel, deployed: QualityModel) -> tuple[bool, str, str]:
    if not torch.cuda.is_available():
        return True, "not asked: there is none here", ""
    pictures = natural(129, 177)[:2]
    advice = "make tensors on the pictures' device, and let parts that have weights be modules of the model"
    try:
        scores = _scores(defense.protect(copy.deepcopy(model).cuda()).cuda(), pictures.cuda())
    except Exception as error:
        return False, told(error), advice
    apart = float((scores.cpu() - _scores(deployed, pictures)).abs().max()) / _width(model)
    # the GPU sums in another order and may use TF32, and its random numbers are others
    return scores.is_cuda and (apart <= 0.01 or defense.stochastic), f"scores differ by {apart:.1g} of the range", advice


def _shown(defense: Defense, model: QualityModel, deployed: QualityModel) -> Iterator[Finding]:
    """What an adaptive attacker gets."""
    advice = f"let surrogate() return a model of nearly the same scores; this one says {defense.surrogate_kind!r}"
    try:
        surrogate = defense.surrogate(model)
        apart = _apart(surrogate, deployed, natural(129, 177)[:2])
    except Exception as error:
        yield Finding("surrogate", False, told(error), advice)
        return
    seen = f"its scores differ by {apart:.1g} of the range from the deployed ones"
    yield Finding("surrogate", apart <= SAME[defense.surrogate_kind], seen, advice)
    if surrogate is not model:
        surrogate.info = replace(surrogate.info, stochastic=defense.stochastic or model.info.stochastic)
    wanted = ("flat pictures", "gradient", *(("slope",) if defense.surrogate_kind == "exact" else ()))
    for finding in probe(surrogate, wanted):
        yield replace(finding, name=f"surrogate: {finding.name}")


def _scores(model: QualityModel, pictures: torch.Tensor) -> torch.Tensor:
    with frozen(model), torch.inference_mode():
        torch.manual_seed(0)
        scores: torch.Tensor = model(pictures.clone())
    return scores


def _apart(one: QualityModel, other: QualityModel, pictures: torch.Tensor) -> float:
    """How far the scores of two models lie apart under one seed, as a share of the range."""
    return float((_scores(one, pictures) - _scores(other, pictures)).abs().max()) / _width(other)


def _width(model: QualityModel) -> float:
    low, high = model.info.score_range
    return high - low


def _certified(defense: CertifiedDefense, model: QualityModel, deployed: QualityModel) -> Finding:
    advice = "let lower and upper (N,) hold the deployed quality, in quality units; ∓inf where nothing is known"
    pictures = natural(129, 177)[:2]
    try:
        with frozen(model), torch.inference_mode():
            torch.manual_seed(0)
            found = defense.certify(model, pictures, RADIUS)
        quality = deployed.to_quality(_scores(deployed, pictures))
    except DoesNotApply as reason:
        return Finding("certificate", True, f"not asked: {reason}")
    except Exception as error:
        return Finding("certificate", False, told(error), advice)
    shape = tuple(found.lower.shape) == tuple(found.upper.shape) == (len(pictures),)
    holds = shape and bool((found.lower <= quality + 1e-4).all() and (quality <= found.upper + 1e-4).all())
    seen = f"[{float(found.lower[0]):.3f}, {float(found.upper[0]):.3f}] for quality {float(quality[0]):.3f} at ℓ2 {RADIUS:g}"
    return Finding(
        "certificate", holds, seen if shape else f"shapes {tuple(found.lower.shape)}, {tuple(found.upper.shape)}", advice
    )


def _recipe(defense: TrainedDefense, model: QualityModel) -> Finding:
    """One step of training is possible: the loss is a finite number that reaches every weight."""
    advice = "let loss() return a finite scalar that depends on the weights of the model that prepare() returned"
    try:
        prepared = defense.prepare(model).train()
        torch.manual_seed(0)
        pictures = natural(129, 177)[:2, :, :96, :96].contiguous()
        loss = defense.loss(prepared, pictures, torch.tensor([0.2, 0.9]), 0.5)
        loss.backward()
    except DoesNotApply as reason:
        return Finding("recipe", False, str(reason), advice)
    except Exception as error:
        return Finding("recipe", False, told(error), advice)
    without = [name for name, weight in prepared.named_parameters() if weight.requires_grad and weight.grad is None]
    ok = loss.shape == () and bool(loss.isfinite()) and not without
    seen = f"loss {float(loss.detach().mean()):.4g} of shape {tuple(loss.shape)}"
    return Finding("recipe", ok, f"no gradient for {without[0]}" if without else seen, advice)
