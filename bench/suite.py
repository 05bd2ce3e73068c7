"""Suites: a YAML file, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from iqarena.attacks.objective import Kind
from iqarena.attacks.threat import Norm
from iqarena.bench.errors import UserError, first_message

SUITES = Path(__file__).parent / "suites"
Setting = Literal["oblivious", "adaptive", "transfer"]


def parse_size(value: object) -> object:
    """``4/255`` or a number to a float.

    Example:
        >>> parse_size("51/255")
        0.2
    """
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError(f"{value!r} is neither a number nor a fraction like 2/255") from None
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ThreatConfig(_Strict):
    """One threat model of a suite."""

    norm: Norm = "linf"
    eps: Annotated[float, BeforeValidator(parse_size), Field(gt=0, allow_inf_nan=False)] = 2 / 255
    queries: Annotated[int, Field(ge=0)] | None = None

    @field_validator("eps")
    @classmethod
    def _makes_sense(cls, eps: float, others: ValidationInfo) -> float:
        norm = others.data.get("norm")
        if norm != "l2" and eps > 1:
            raise ValueError("must be at most 1; write 2/255 for two levels of 255")
        if norm == "linf" and eps * 255 * (1 + 1e-9) < 1:
            raise ValueError(f"{eps:g} is below 1/255, one level of an 8-bit image; nothing could change")
        return eps


class AttackConfig(_Strict):
    """One attack of a suite; without objectives it follows its own, or `away` if it can follow any.

    `target` is the quality that the objective of that name aims at.
    """

    attack: str
    objectives: list[Kind] | None = None
    target: float = 1.0


def _attack(value: object) -> object:
    return {"attack": value} if isinstance(value, str) else value


Attacks = Annotated[list[Annotated[AttackConfig, BeforeValidator(_attack)]], Field(min_length=1)]
Names = Annotated[list[str], Field(min_length=1)]


class Part(_Strict):
    """What a suite runs besides: the same with some fields replaced."""

    models: Names | None = None
    defenses: Names | None = None
    attacks: Attacks | None = None
    threats: Annotated[list[ThreatConfig], Field(min_length=1)] | None = None
    settings: Annotated[list[Setting], Field(min_length=1)] | None = None
    transfer_from: list[str] | None = None
    precision: Precision | None = None


_TRANSFER = ("models", "settings", "transfer_from")
"""The fields that say what is crafted on what."""


def _alone(models: Sequence[str], settings: Sequence[str], sources: Sequence[str]) -> bool:
    """Whether `transfer` is wanted and nothing is there to be crafted on but the one model that is attacked."""
    return "transfer" in settings and bool(models) and len({*models, *sources}) == 1


def _need_another(said: Mapping[str, Any]) -> None:
    if _alone(*(said.get(name, ()) for name in _TRANSFER)):
        raise ValueError(f"the setting transfer needs a model other than {said['models'][0]} to craft on")


def _has_sources(part: Part, others: ValidationInfo) -> Part:
    """What a suite may not say, a part of it may not say either."""
    _need_another(others.data | part.model_dump(exclude_none=True))
    return part


class Suite(_Strict):
    """What a suite file says; it expands to cells.

    Attributes:
        name: of the suite.
        dataset: registry name.
        limit: at most so many images, evenly over the references.
        models, defenses, attacks: specs such as ``pgd[steps=40]``.
        threats: threat models.
        settings: what the attacker knows: `oblivious` the model alone, `adaptive` its defense too, `transfer` neither.
        transfer_from: the undefended models that `transfer` cells are crafted on, each other model of the suite if left out;
            where it is given, `transfer` need not be among the settings.
        seed: of everything random.
        batch: images at once, or "auto", as many as fit; changes speed and memory only.
        draws: over how many random draws a gradient on a stochastic target is averaged.
        seconds: wall time that a cell may take; none is no limit.
        memory_mib: data that a process which runs cells may hold, in MiB; none is no limit.
        gpus: of a task on a Ray cluster; may be a share of one.
        device: where models run: cpu, cuda (every GPU there is), cuda:N or mps.
        precision: of the gradients that attacks get: float32, or bfloat16, which is faster. Scores are float32 always.
        compile: whether models go through `torch.compile`.
        parts: what is run besides, for what is no product of lists.
    """

    name: str = "custom"
    dataset: str = "demo"
    limit: Annotated[int, Field(ge=2)] | None = None
    models: Names
    defenses: Names = ["none"]
    attacks: Attacks
    threats: Annotated[list[ThreatConfig], Field(min_length=1)] = [ThreatConfig()]
    settings: Annotated[list[Setting], Field(min_length=1)] = ["oblivious", "adaptive"]
    transfer_from: Annotated[list[str], Field(validate_default=True)] = []
    seed: Annotated[int, Field(ge=0)] = 0
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    draws: Annotated[int, Field(ge=1)] = 8
    seconds: Annotated[float, Field(gt=0)] | None = None
    memory_mib: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[float, Field(ge=0)] = 0.0
    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    parts: list[Annotated[Part, AfterValidator(_has_sources)]] = []

    @field_validator("transfer_from")
    @classmethod
    def _has_another_model(cls, sources: list[str], others: ValidationInfo) -> list[str]:
        _need_another(others.data | {"transfer_from": sources})
        return sources


def load_suite(name_or_file: str) -> Suite:
    """A suite by its name in ``bench/suites`` or by its file.

    Raises:
        UserError: naming file, line and field.

    Example:
        >>> load_suite("quick").dataset
        'demo'
    """
    path = Path(name_or_file)
    if not path.suffix and (SUITES / f"{name_or_file}.yaml").is_file():
        path = SUITES / f"{name_or_file}.yaml"
    try:
        text = path.read_text()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in SUITES.glob("*.yaml")))
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(f"{path}: cannot be read ({reason}); give a YAML file or one of the suites {known}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{mark.line + 1}: " if mark else " "
        words = " ".join(str(getattr(error, "problem", error)).split())
        raise UserError(f"{path}:{line}not valid YAML: {words}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}:1: a suite is a mapping with models, defenses, attacks, …")
    return validated(content, lambda loc: f"{path}:{_line(node, loc)}")


def validated(content: dict[str, Any], place: Any = lambda loc: "suite") -> Suite:
    """A suite from plain data; `place` turns a field's path into words for the error line."""
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        first, (field, message) = error.errors()[0], first_message(error)
        if first["type"] == "extra_forbidden":
            message = "no such field"
        given = "" if first["type"] in ("missing", "extra_forbidden") else f", not {first['input']!r}"
        raise UserError(f"{place(first['loc'])}: field {field}: {message}{given}") from None


def changed(suite: Suite, changes: dict[str, Any], more: Mapping[str, Sequence[str] | None] | None = None) -> Suite:
    """A suite with other values in some fields, in all its parts, and with more in some lists, in its own.

    Parts lose the setting `transfer` where the change leaves no other model to craft on.

    Raises:
        UserError: for values that make no sense.
    """
    content = suite.model_dump(exclude={"parts"}) | changes
    for field, added in (more or {}).items():
        content[field] = [*content[field], *(added or ())]
    parts = [part.model_dump(exclude=set(changes), exclude_none=True) for part in suite.parts]
    for part in parts:
        models, settings, sources = ((content | part)[name] for name in _TRANSFER)
        if _alone(models, settings, sources):
            part["settings"] = [setting for setting in settings if setting != "transfer"]
    content["parts"] = [part for part in parts if part.get("settings") != []]
    return validated(content, lambda loc: "the command line")


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """Line of the deepest node along a field's path."""
    line = 1
    for step in loc:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == step]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


Precision = Literal["float32", "bfloat16"]
"""In which gradients for attacks are taken."""


Batch = int | Literal["auto"]
"""Images at once; or as many as fit."""
