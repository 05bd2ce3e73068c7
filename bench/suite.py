"""Suites: YAML files that define the cells of a run, validated field by field."""

from __future__ import annotations

import math
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
from iqarena.bench.checkout import with_home
from iqarena.bench.errors import UserError, first_message, printable
from iqarena.models.zoo.plain_yaml import read_yaml

SUITES = Path(__file__).parent / "suites"
Setting = Literal["oblivious", "adaptive", "transfer"]


def parse_size(value: object) -> object:
    """Convert a fraction such as ``4/255`` or a number to a float.

    Example:
        >>> parse_size("51/255")
        0.2
    """
    if isinstance(value, bool):
        raise ValueError("neither a number nor a fraction like 2/255")
    if isinstance(value, str):
        text = value.replace(" ", "")
        try:
            # a Fraction would write out all digits of 1e999999999
            size = float(Fraction(text)) if "/" in text else float(text)
        except (ValueError, ZeroDivisionError, OverflowError):
            size = math.nan
        if not math.isfinite(size):
            raise ValueError(f"{value[:80]!r} is neither a number nor a fraction like 2/255")
        return size
    return value


Count = Field(ge=0, lt=2**63)
"""A seed or a number of queries: what fits into 64 bits."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ThreatConfig(_Strict):
    """A threat model of a suite."""

    norm: Norm = "linf"
    eps: Annotated[float, BeforeValidator(parse_size), Field(gt=0, allow_inf_nan=False)] = 2 / 255
    queries: Annotated[int, Count] | None = None

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
    target: Annotated[float, Field(allow_inf_nan=False)] = 1.0


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
    limit: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    models: Names
    defenses: Names = ["none"]
    attacks: Attacks
    threats: Annotated[list[ThreatConfig], Field(min_length=1)] = [ThreatConfig()]
    settings: Annotated[list[Setting], Field(min_length=1)] = ["oblivious", "adaptive"]
    transfer_from: Annotated[list[str], Field(validate_default=True)] = []
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    batch: Annotated[int, Field(ge=1, lt=2**31)] | Literal["auto"] = 16
    draws: Annotated[int, Field(ge=1, lt=2**31)] = 8
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    memory_mib: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
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
    path = with_home(Path(name_or_file))
    if not path.suffix and (SUITES / f"{name_or_file}.yaml").is_file():
        path = SUITES / f"{name_or_file}.yaml"
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "not a file")  # a pipe would never end
        node, content = read_yaml(path.read_bytes())
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        known = ", ".join(sorted(file.stem for file in SUITES.glob("*.yaml")))
        reason = getattr(error, "strerror", None) or "no name of a file"
        shown = printable(str(path))
        raise UserError(f"{shown}: cannot be read ({reason}); give a YAML file or one of the suites {known}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{mark.line + 1}: " if mark else " "
        message = " ".join(str(getattr(error, "problem", error)).split())
        raise UserError(f"{path}:{line}not valid YAML: {printable(message)}") from None
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
        given = "" if first["type"] in ("missing", "extra_forbidden") else f", not {_shown(first['input'])}"
        raise UserError(f"{location(first['loc'])}: field {printable(field)}: {printable(message)}{given}") from None


def _shown(value: object) -> str:
    """Return a value for a message; it may be a number of a million digits, which Python refuses to write."""
    try:
        return printable(repr(value))
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too long to be shown"


def size_hints(suite: Suite) -> list[str]:
    """Return a line for each size in ℓ∞ that is no whole number of levels of an 8-bit image, which is then rounded down.

    Example:
        >>> size_hints(validated({"models": ["cnniqa"], "attacks": ["fgsm"], "threats": [{"eps": 0.00784}]}))
        ['eps 0.00784 is 1.9992 levels of 255, of which 1 can be used: write 1/255 or 2/255']
    """
    threats = [*suite.threats, *(threat for part in suite.parts for threat in part.threats or ())]
    levels = {threat.eps: threat.eps * 255 for threat in threats if threat.norm == "linf"}
    whole = {eps: math.floor(level * (1 + 1e-9)) for eps, level in levels.items()}
    return [
        f"eps {eps:g} is {levels[eps]:.8g} levels of 255, of which {used} can be used: write {used}/255 or {used + 1}/255"
        for eps, used in whole.items()
        if levels[eps] - used > 1e-6
    ]


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
