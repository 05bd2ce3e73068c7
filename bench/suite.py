"""Suites: YAML files that define the cells of a run, validated field by field."""

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
    """Convert a fraction such as ``4/255`` or a number to a float.

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
    """A threat model of a suite."""

    norm: Norm = "linf"
    eps: Annotated[float, BeforeValidator(parse_size), Field(gt=0, allow_inf_nan=False)] = 2 / 255
    queries: Annotated[int, Field(ge=0)] | None = None

    @field_validator("eps")
    @classmethod
    def _check_size(cls, eps: float, info: ValidationInfo) -> float:
        norm = info.data.get("norm")
        if norm != "l2" and eps > 1:
            raise ValueError("must be at most 1; write 2/255 for two levels of 255")
        if norm == "linf" and eps * 255 * (1 + 1e-9) < 1:
            raise ValueError(f"{eps:g} is below 1/255, one level of an 8-bit image; nothing could change")
        return eps


class AttackConfig(_Strict):
    """An attack of a suite; if no objectives are given, they are `away` if the attack supports it, else all it supports.

    `target` is the target quality of the objective `target`.
    """

    attack: str
    objectives: list[Kind] | None = None
    target: float = 1.0


def _attack(value: object) -> object:
    return {"attack": value} if isinstance(value, str) else value


Attacks = Annotated[list[Annotated[AttackConfig, BeforeValidator(_attack)]], Field(min_length=1)]
Names = Annotated[list[str], Field(min_length=1)]


class Part(_Strict):
    """An additional part of a suite: the suite with some fields replaced."""

    models: Names | None = None
    defenses: Names | None = None
    attacks: Attacks | None = None
    threats: Annotated[list[ThreatConfig], Field(min_length=1)] | None = None
    settings: Annotated[list[Setting], Field(min_length=1)] | None = None
    transfer_from: list[str] | None = None
    precision: Precision | None = None


_TRANSFER = ("models", "settings", "transfer_from")
"""The fields that determine on which models transfer attacks are crafted."""


def _lacks_source(models: Sequence[str], settings: Sequence[str], sources: Sequence[str]) -> bool:
    """Check whether the setting `transfer` is used with only one model, so there is no other model to craft on."""
    return "transfer" in settings and bool(models) and len({*models, *sources}) == 1


def _require_source(suite_fields: Mapping[str, Any]) -> None:
    if _lacks_source(*(suite_fields.get(name, ()) for name in _TRANSFER)):
        raise ValueError(f"the setting transfer needs a model other than {suite_fields['models'][0]} to craft on")


def _has_source(part: Part, info: ValidationInfo) -> Part:
    """Check a part of a suite like the suite itself."""
    _require_source(info.data | part.model_dump(exclude_none=True))
    return part


class Suite(_Strict):
    """The content of a suite file; it expands to cells.

    Attributes:
        name: name of the suite.
        dataset: registry name of the data set.
        limit: maximum number of images, chosen evenly over the references.
        models, defenses, attacks: specs such as ``pgd[steps=40]``.
        threats: threat models.
        settings: knowledge of the attacker: `oblivious` knows the model only, `adaptive` also its defense, `transfer`
            neither.
        transfer_from: undefended models on which `transfer` cells are crafted; all other models of the suite if omitted. If
            it is given, `transfer` need not be listed in the settings.
        seed: seed of all random numbers.
        batch: batch size, or "auto" for as many images as fit into memory; affects only speed and memory.
        draws: number of random draws that a gradient of a stochastic target is averaged over.
        seconds: limit on the wall time of a cell; no limit if omitted.
        memory_mib: memory limit of a process that runs cells, in MiB; no limit if omitted.
        gpus: GPUs of a task on a Ray cluster; may be a fraction.
        device: device of the models: cpu, cuda (all GPUs), cuda:N or mps.
        precision: precision of the gradients for attacks: float32, or bfloat16, which is faster. Scores are always float32.
        compile: whether models are compiled by `torch.compile`.
        parts: additional parts, for cells that are not a product of the lists.
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
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 16
    draws: Annotated[int, Field(ge=1)] = 8
    seconds: Annotated[float, Field(gt=0)] | None = None
    memory_mib: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[float, Field(ge=0)] = 0.0
    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    parts: list[Annotated[Part, AfterValidator(_has_source)]] = []

    @field_validator("transfer_from")
    @classmethod
    def _check_transfer(cls, sources: list[str], info: ValidationInfo) -> list[str]:
        _require_source(info.data | {"transfer_from": sources})
        return sources


def load_suite(name_or_file: str) -> Suite:
    """Load a suite by its name in ``bench/suites`` or by its file.

    Raises:
        UserError: with file, line and field.

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
        message = " ".join(str(getattr(error, "problem", error)).split())
        raise UserError(f"{path}:{line}not valid YAML: {message}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}:1: a suite is a mapping with models, defenses, attacks, …")
    return validated(content, lambda loc: f"{path}:{_line(node, loc)}")


def validated(content: dict[str, Any], location: Any = lambda loc: "suite") -> Suite:
    """Create a suite from plain data; `location` formats the path of a field for error messages."""
    try:
        return Suite.model_validate(content)
    except ValidationError as error:
        first, (field, message) = error.errors()[0], first_message(error)
        if first["type"] == "extra_forbidden":
            message = "no such field"
        given = "" if first["type"] in ("missing", "extra_forbidden") else f", not {first['input']!r}"
        raise UserError(f"{location(first['loc'])}: field {field}: {message}{given}") from None


def changed(suite: Suite, changes: dict[str, Any], more: Mapping[str, Sequence[str] | None] | None = None) -> Suite:
    """Change fields of a suite and of all its parts, and append to lists of the suite itself.

    The setting `transfer` is removed from parts that are left without another model to craft on.

    Args:
        suite: the suite.
        changes: new values of fields.
        more: values to append to list fields.

    Raises:
        UserError: for invalid values.
    """
    content = suite.model_dump(exclude={"parts"}) | changes
    for field, added in (more or {}).items():
        content[field] = [*content[field], *(added or ())]
    parts = [part.model_dump(exclude=set(changes), exclude_none=True) for part in suite.parts]
    for part in parts:
        models, settings, sources = ((content | part)[name] for name in _TRANSFER)
        if _lacks_source(models, settings, sources):
            part["settings"] = [setting for setting in settings if setting != "transfer"]
    content["parts"] = [part for part in parts if part.get("settings") != []]
    return validated(content, lambda loc: "the command line")


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """Return the line of the deepest node on the path of a field."""
    line = 1
    for step in loc:
        if isinstance(node, yaml.MappingNode):
            matches = [(key, value) for key, value in node.value if key.value == step]
            if not matches:
                break
            line, node = matches[0][0].start_mark.line + 1, matches[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


Precision = Literal["float32", "bfloat16"]
"""Precision of the gradients for attacks."""


Batch = int | Literal["auto"]
"""Batch size; "auto" for as many images as fit into memory."""
