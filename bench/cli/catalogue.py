"""The registries as JSON-serialisable data, for `iqarena list`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import torch

from iqarena.attacks.fitted import FittedAttack
from iqarena.bench.datasets import registered
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.errors import UserError, describe
from iqarena.bench.process import asks_to_stop
from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS, REGISTRIES, Entry
from iqarena.defenses.base import TrainedDefense
from iqarena.models.base import FeatureModel, QualityModel
from iqarena.models.bridges import Bridge
from iqarena.models.zoo import WeightsError, card_of, weight_file


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Return one dictionary per registered name, sorted by name; the entry of a broken plugin has an `error`."""
    if kind == "datasets":
        return [_entry(name, entry, _dataset) for name, entry in sorted(registered().items())]
    registry = REGISTRIES[kind.removesuffix("s")]
    facts = {"models": _model, "defenses": _defense, "attacks": _attack}[kind]
    bridges = (
        [name for name in registry.entries if name.endswith(":")] if kind == "models" else []
    )  # they have too many variants to list
    entries = []
    for name in sorted([*registry.names(), *bridges]):
        entry = registry.entry(name)
        assert entry is not None  # the name is the registry's own
        entries.append(_entry(name, entry, facts))
    return entries


def _entry(name: str, entry: Entry[Any], facts: Callable[[str, type[Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return the facts about a plugin, or the error of loading or describing it."""
    if entry.cls is None:
        return {"name": name, "error": entry.error}
    try:
        return {"name": name, **facts(name, entry.cls), "error": None}
    except BaseException as error:
        if asks_to_stop(error):
            raise
        return {"name": name, "error": str(error) if isinstance(error, UserError) else describe(error)}


def refused() -> dict[str, str]:
    """Return the attacks of other libraries that are not supported, by name, with the reason."""
    unsupported: dict[str, str] = {}
    for name, entry in sorted(ATTACKS.entries.items()):
        reasons: dict[str, str] = getattr(entry.cls, "refused", dict)()
        unsupported |= {f"{name}{variant}": reason for variant, reason in sorted(reasons.items())}
    return unsupported


def _about(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").split("\n")[0]


def _dataset(name: str, cls: type[ImageDataset]) -> dict[str, Any]:
    return cls.facts()


def _attack(name: str, cls: type[Any]) -> dict[str, Any]:
    attack = ATTACKS.build(name)
    return {
        "access": attack.access,
        "norms": list(attack.norms),
        "objectives": list(attack.objectives),
        "control": attack.control,
        "fitted": isinstance(attack, FittedAttack),
        "cost": dict(zip(("forwards", "backwards"), attack.passes, strict=True)) if attack.passes else None,
        "about": _about(cls),
        "paper": cls.paper,
        "parameters": _parameters(cls),
    }


def _defense(name: str, cls: type[Any]) -> dict[str, Any]:
    defense = DEFENSES.build(name)
    trained = [name for name in MODELS.names() if weight_file(name, cls.name).is_file()]
    recipe = isinstance(defense, TrainedDefense) and defense.kind != "none"
    return {
        "kind": defense.kind,
        "stochastic": defense.stochastic,
        "surrogate": defense.surrogate_kind,
        "cost": {
            "forwards": defense.forwards,
            "passes_an_image": defense.passes_an_image if isinstance(defense, TrainedDefense) else None,
        },
        "trained_for": trained if recipe else None,
        "about": _about(cls),
        "paper": cls.paper,
        "parameters": _parameters(cls),
    }


def _model(name: str, cls: type[Any]) -> dict[str, Any]:
    if issubclass(cls, Bridge):
        return {
            "bridge": True,
            "behind_the_colon": cls.about,
            "differentiable": cls.differentiable,
            "weights": "yours",
            "about": _about(cls),
        }
    info = cls.info
    try:
        card = card_of(weight_file(info.name))
    except WeightsError as error:
        card = {"measured": str(error)}
    return {
        "bridge": False,
        "weights": "yours" if cls.weights_wanted else "shipped" if cls.in_zoo else "none",
        "weights_wanted": cls.weights_wanted or None,
        "score_range": list(info.score_range),
        "higher_is_better": info.higher_is_better,
        "min_size": info.min_size,
        "differentiable": info.differentiable,
        "stochastic": info.stochastic,
        "parameters_count": card.get("parameters") or parameters_of(cls),
        "feature_maps": issubclass(cls, FeatureModel),
        "imagenet": getattr(cls, "imagenet", None),
        "measured": card.get("measured"),
        "about": _about(cls),
        "licence": info.licence,
        "paper": info.paper,
    }


def parameters_of(cls: type[QualityModel]) -> int:
    """Return the number of trainable parameters of a model, built on the meta device."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in cls().parameters())


def _parameters(cls: type[Any]) -> dict[str, Any]:
    if not is_dataclass(cls):
        return {}
    return {f.name: None if f.default is MISSING else f.default for f in fields(cls)}
