"""Models by name, with their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.errors import UserError
from bench.registry import MODELS, parse_spec
from models.base import QualityModel
from models.zoo import WeightsError, load_weights, weight_file


def load_model(spec: str) -> QualityModel:
    """A registered model; one that lives in the zoo comes with its zoo weights, or with ``weights=FILE``.

    Raises:
        UserError: for an unknown model, parameter, or unusable weights.
    """
    name, parameters = parse_spec(spec)
    made = MODELS.find(name)
    file = parameters.pop("weights", None)
    if parameters:
        raise UserError(f"model {name!r} has no parameter {next(iter(parameters))!r}; its only one is weights=FILE")
    if made.weights_wanted and not file:
        raise UserError(f"model {name!r} comes without weights; give {name}[weights=FILE], FILE being {made.weights_wanted}")
    try:
        model = made()
        if made.in_zoo or file:
            path = Path(file) if file else weight_file(model.info.name)
            model.info = replace(model.info, weights_sha256=load_weights(model, path))
    except WeightsError as error:
        raise UserError(str(error)) from None
    except Exception as error:
        raise UserError(f"model {spec!r} cannot be made ({told(error)})") from None
    return model.eval()


def told(error: BaseException) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
