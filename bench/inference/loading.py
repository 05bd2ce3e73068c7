"""Loading of models by name, with their weights."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from iqarena.bench.errors import UserError, describe, first_message
from iqarena.bench.inference.identity import fingerprint
from iqarena.bench.inference.measured_info import measure_info
from iqarena.bench.process import asks_to_stop
from iqarena.bench.registry import MODELS, parse_spec
from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.bridges import Bridge, Facts
from iqarena.models.zoo import WeightsError, chosen_file, load_weights, state_sha256


def load_model(spec: str) -> QualityModel:
    """Load a registered model; a model of the zoo gets its weights from there, or from ``weights=FILE`` or ``LABEL``.

    ``$NAME`` in FILE is an environment variable, so a suite can be run on machines where the file is elsewhere. Other
    weights may have another scale of scores, so facts may be given with them: ``weights=FILE,low=0,high=100``. For the
    model of a bridge, facts that are neither given in brackets nor known are measured.

    Raises:
        UserError: for an unknown model or parameter, or unusable weights.

    Example:
        >>> model = load_model("cnniqa")
        >>> model.info.score_range, len(model.info.weights_sha256)
        ((0.0, 1.0), 64)
    """
    name, parameters = parse_spec(spec)
    cls = MODELS.find(name)
    if issubclass(cls, Bridge):
        return _load_bridged(spec, cls, name.partition(":")[2], parameters)
    file = parameters.pop("weights", None)
    given, others = _facts(spec, parameters)
    if others or (parameters and not file):
        raise UserError(
            f"model {name!r} has no parameter {next(iter(others or parameters))!r}; its only one is weights=FILE, "
            f"and beside that {', '.join(known_facts())}"
        )
    if cls.weights_wanted and not file:
        raise UserError(f"model {name!r} comes without weights; give {name}[weights=FILE], FILE being {cls.weights_wanted}")
    try:
        model = cls()
        if cls.in_zoo or file:
            path = chosen_file(os.path.expandvars(str(file or "")), model.info.name)
            model.info = _with_facts(given, replace(model.info, weights_sha256=load_weights(model, path)))
        if name.startswith("file:"):  # weights alone do not identify it: attributes and code of helpers count too
            model.info = replace(model.info, weights_sha256=fingerprint(model))
        elif not model.info.weights_sha256 and model.state_dict():  # weights that its constructor has loaded
            model.info = replace(model.info, weights_sha256=state_sha256(model))
    except WeightsError as error:
        raise UserError(str(error)) from None
    except BaseException as error:
        if asks_to_stop(error):
            raise
        raise UserError(f"model {spec!r} cannot be made ({describe(error)})") from None
    return model.eval()


def _load_bridged(spec: str, cls: type[Bridge], variant: str, parameters: dict[str, Any]) -> QualityModel:
    facts, options = _facts(spec, parameters)
    try:
        model = cls(variant, **options).eval()
    except ValueError as error:
        raise UserError(str(error)) from None
    except BaseException as error:
        if asks_to_stop(error):
            raise
        raise UserError(f"model {spec!r} cannot be made ({describe(error)})") from None
    model.info = measure_info(model, facts)
    return model


def known_facts() -> list[str]:
    """Return the names of the facts on a model's scores that can be given in brackets."""
    return [field.name for field in fields(Facts)]


def _facts(spec: str, parameters: dict[str, Any]) -> tuple[Facts, dict[str, Any]]:
    """Split parameters into facts and other parameters."""
    given = {key: value for key, value in parameters.items() if key in known_facts()}
    try:
        facts = TypeAdapter(Facts).validate_python(given)
    except ValidationError as error:
        raise UserError(f"model {spec!r}: {': '.join(first_message(error))}") from None
    return facts, {key: value for key, value in parameters.items() if key not in given}


def _with_facts(given: Facts, info: ModelInfo) -> ModelInfo:
    """Replace entries of a model's info by the facts that were given."""
    low, high = info.score_range
    return replace(
        info,
        score_range=(low if given.low is None else given.low, high if given.high is None else given.high),
        higher_is_better=info.higher_is_better if given.higher_is_better is None else given.higher_is_better,
        min_size=given.min_size or info.min_size,
    )
