"""Models by name, with their weights."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.errors import UserError
from bench.registry import MODELS, parse_spec
from models.base import QualityModel
from models.bridges import Bridge, Facts
from models.zoo import WeightsError, load_weights, state_sha256, weight_file


def load_model(spec: str) -> QualityModel:
    """A registered model; one that lives in the zoo comes with its zoo weights, or with ``weights=FILE``.

    Of a bridge's model, facts that are neither given in brackets nor known are measured.

    Raises:
        UserError: for an unknown model, parameter, or unusable weights.
    """
    name, parameters = parse_spec(spec)
    made = MODELS.find(name)
    if issubclass(made, Bridge):
        return _bridged(spec, made, name.partition(":")[2], parameters)
    file = parameters.pop("weights", None)
    if parameters:
        raise UserError(f"model {name!r} has no parameter {next(iter(parameters))!r}; its only one is weights=FILE")
    if made.weights_wanted and not file:
        raise UserError(f"model {name!r} comes without weights; give {name}[weights=FILE], FILE being {made.weights_wanted}")
    try:
        model = made()
        if made.in_zoo or file:
            path = Path(str(file)) if file else weight_file(model.info.name)
            model.info = replace(model.info, weights_sha256=load_weights(model, path))
        elif not model.info.weights_sha256 and model.state_dict():  # what its constructor has loaded, wherever from
            model.info = replace(model.info, weights_sha256=state_sha256(model))
    except WeightsError as error:
        raise UserError(str(error)) from None
    except Exception as error:
        raise UserError(f"model {spec!r} cannot be made ({told(error)})") from None
    return model.eval()


def _bridged(spec: str, made: type[Bridge], what: str, parameters: dict[str, Any]) -> QualityModel:
    from bench.facts import measured  # it needs the demo set, most models do not

    known = {field.name for field in fields(Facts)}
    given = {key: value for key, value in parameters.items() if key in known}
    try:
        facts = TypeAdapter(Facts).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"model {spec!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    try:
        model = made(what, **{key: value for key, value in parameters.items() if key not in known}).eval()
    except ValueError as error:
        raise UserError(str(error)) from None
    except Exception as error:
        raise UserError(f"model {spec!r} cannot be made ({told(error)})") from None
    model.info = measured(model, facts)
    return model


def told(error: BaseException) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
