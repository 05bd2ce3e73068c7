"""The identity of a model that no registry vouches for: an object of the caller's, or a class in a file.

`fingerprint` hashes what the model is made of: weights, buffers of both kinds, plain attributes, and the code that it
reaches outside of installed packages. `ask` asks the model itself: its scores and gradients on fixed probes, which also
change with what no hash sees (a library's version, a global setting, a file that is read on every call). Two models that
agree in both are taken for the same; models that differ on other images alone are not told apart.
"""

from __future__ import annotations

import functools
import hashlib
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from iqarena.bench.code_hash import is_user_code
from iqarena.bench.inference.isolation import seeded, streams_kept
from iqarena.bench.inference.target import frozen
from iqarena.bench.process import asks_to_stop
from iqarena.models.base import QualityModel

SIZES = ((224, 224), (256, 320))
"""Height and width of the probes: of each size 8-bit noise and a photograph."""

DIRECTIONS = 4
"""Seeded ±1 images that the gradient at the first probe is multiplied with."""

SAME_SCORE, SAME_SLOPE = 1e-4, 1e-2
"""Largest difference of two scores s of one model, as a share of max(1, |s|), and of two products, as a share of the largest
that they can be: the gradient's norm times that of a ±1 image, √(3HW). Other machines and batch sizes differ by less."""

Answers = dict[str, Any]
"""Answers of a model, as JSON holds them: "scores" of the probes alone, then in batches of two; "products" and "norm" of the
gradient; or "error", the type of the exception that it raised instead."""


# --- asking


def ask(model: QualityModel, device: str = "cpu") -> Answers:
    """Ask a model for its scores and gradients on the probes.

    Args:
        model: placed on `device`. A stochastic one is asked under one seed.
        device: where it is.

    Returns:
        Its answers; what is not finite is None. An exception counts as an answer.
    """
    probes = [probe.to(device) for probe in _probes()]
    with frozen(model), streams_kept():
        try:
            answers: Answers = {"scores": [_number(score) for score in _scores(model, probes)]}
        except BaseException as error:
            if asks_to_stop(error):
                raise
            return {"error": type(error).__name__}
        if model.info.differentiable:
            try:
                gradient = _gradient(model, probes[0])
                answers |= {
                    "products": [_number((gradient * direction.to(gradient)).sum()) for direction in _directions()],
                    "norm": _number(gradient.norm()),
                }
            except BaseException as error:
                if asks_to_stop(error):
                    raise
                answers["gradient_error"] = type(error).__name__
    return answers


def same(one: Answers, other: Answers) -> bool:
    """Whether two answers are those of one model, up to what batches, threads and machines change."""
    if one.keys() != other.keys():
        return False
    if any(one.get(key) != other.get(key) for key in ("error", "gradient_error")):
        return False
    scores = zip(one.get("scores", ()), other.get("scores", ()), strict=False)
    if len(one.get("scores", ())) != len(other.get("scores", ())) or not all(
        _close(a, b, SAME_SCORE * max(1.0, abs(a or 0.0))) for a, b in scores
    ):
        return False
    height, width = SIZES[0]
    bound = SAME_SLOPE * (one.get("norm") or 0.0) * math.sqrt(3 * height * width)
    return all(_close(a, b, bound) for a, b in zip(one.get("products", ()), other.get("products", ()), strict=True))


def _close(one: float | None, other: float | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance


def _number(value: torch.Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _scores(model: QualityModel, probes: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the score of each probe alone, then those of the two probes of each size in one batch."""
    batches = [*probes, *(torch.cat(probes[i : i + 2]) for i in range(0, len(probes), 2))]
    for batch in batches:
        with seeded(0), torch.no_grad():
            yield from model(batch.clone()).flatten()


def _gradient(model: QualityModel, probe: torch.Tensor) -> torch.Tensor:
    image = probe.clone().requires_grad_()
    with seeded(0), torch.enable_grad():
        (gradient,) = torch.autograd.grad(model(image).sum(), image)
    return gradient


@functools.cache
def _probes() -> list[torch.Tensor]:
    """Return the probes, (1, 3, H, W) in [0, 1]: noise and photograph of the first size, then of the second."""
    from skimage import data

    photograph = torch.from_numpy(data.astronaut()).permute(2, 0, 1)
    generator = torch.Generator().manual_seed(0)
    probes = []
    for height, width in SIZES:
        top, left = (photograph.shape[1] - height) // 2, (photograph.shape[2] - width) // 2
        noise = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        probes += [noise, photograph[:, top : top + height, left : left + width]]
    return [probe[None].float() / 255 for probe in probes]


@functools.cache
def _directions() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    height, width = SIZES[0]
    return [2.0 * torch.randint(2, (1, 3, height, width), generator=generator) - 1 for _ in range(DIRECTIONS)]


# --- what it is made of


def fingerprint(model: nn.Module) -> str:
    """Return the sha256 of a model's weights, buffers, plain attributes, and of the code that it reaches.

    Code of installed packages and of Python itself is left out: a record names their versions.
    """
    walk = _Walk()
    walk.add("model", model)
    return walk.hash.hexdigest()


_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_IGNORED = ("_buffers", "training", "_is_full_backward_hook", "_compiled_call_impl")
"""Attributes of an nn.Module that say nothing about its scores, or that are added in another way."""


class _Walk:
    """A walk over all that an object refers to, in an order that depends on nothing but names and values."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []  # so that no id is given twice

    def _note(self, *values: object) -> None:
        self.hash.update("\0".join(map(str, values)).encode("utf-8", "surrogatepass") + b"\n")

    def add(self, name: object, value: object) -> None:
        """Add a named value and all that it refers to."""
        if value is None or isinstance(value, _PLAIN):
            self._note(name, type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._note(name, "again", self._seen[id(value)])
            return
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
        self._note(name, type(value).__module__, type(value).__qualname__)
        self._add_parts(value)

    def _add_parts(self, value: object) -> None:
        if isinstance(value, torch.Tensor | np.ndarray | np.generic):
            self._add_array(value)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                self.add(repr(key) if isinstance(key, str | int | float | bool | tuple) else type(key).__name__, value[key])
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self.add(index, item)
        elif isinstance(value, set | frozenset):
            self._note(*sorted(repr(item) if isinstance(item, _PLAIN) else type(item).__name__ for item in value))
        elif isinstance(value, types.FunctionType | types.MethodType | functools.partial | type | types.ModuleType):
            self._add_code(value)
        else:
            self._add_object(value)

    def _add_array(self, value: torch.Tensor | np.ndarray | np.generic) -> None:
        if isinstance(value, torch.Tensor):
            self._note(value.dtype, tuple(value.shape))
            if value.is_quantized:
                value = value.dequantize()
            if value.device.type == "meta":
                return
            flat = value.detach().cpu().to_dense().contiguous().reshape(-1)
            self.hash.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
        else:
            self._note(value.dtype, np.shape(value))
            self.hash.update(np.ascontiguousarray(value).tobytes())

    def _add_object(self, value: object) -> None:
        """Add the attributes of an object and the code of its class; of a built-in function, its name."""
        self._note(getattr(value, "__module__", ""), getattr(value, "__qualname__", getattr(value, "__name__", "")))
        self.add("class", type(value))
        if isinstance(value, torch.jit.ScriptModule):  # it lives outside of Python
            self._note(value.inlined_graph)
            for name, tensor in sorted(value.state_dict().items()):
                self.add(name, tensor)
            return
        if isinstance(value, nn.Module):
            for name, buffer in value.named_buffers(recurse=False):  # persistent or not
                self.add(f"buffer {name}", buffer)
        attributes = dict(getattr(value, "__dict__", {}))
        for slot in (slot for cls in type(value).__mro__ for slot in _slots(cls)):
            if hasattr(value, slot):
                attributes[slot] = getattr(value, slot)
        for name in sorted(attributes):
            if "_hooks" in name and isinstance(attributes[name], Mapping):  # their keys are counted over the whole process
                self.add(name, list(attributes[name].values()))
            elif name not in _IGNORED and not name.startswith("__"):
                self.add(name, attributes[name])

    def _add_code(self, value: Any) -> None:
        self._note("code", getattr(value, "__module__", ""), getattr(value, "__qualname__", getattr(value, "__name__", "")))
        if isinstance(value, functools.partial):
            self.add("func", value.func)
            self.add("args", value.args)
            self.add("keywords", value.keywords)
        elif isinstance(value, types.MethodType):
            self.add("self", value.__self__)
            self.add("func", value.__func__)
        elif isinstance(value, types.ModuleType):
            if is_user_code(value.__name__):
                for name in sorted(vars(value)):
                    if not name.startswith("__"):
                        self.add(name, vars(value)[name])
        elif isinstance(value, type):
            if is_user_code(value.__module__ or ""):
                self.add("bases", list(value.__bases__))
                for name in sorted(vars(value)):
                    if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "_abc_impl"):
                        self._add_member(name, vars(value)[name])
        elif is_user_code(value.__module__ or ""):
            self._add_function(value)

    def _add_member(self, name: str, member: object) -> None:
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if isinstance(member, property):
            for part in ("fget", "fset"):
                self.add(f"{name} {part}", getattr(member, part))
        elif isinstance(member, functools.cached_property):
            self.add(name, member.func)
        else:
            self.add(name, member)

    def _add_function(self, function: types.FunctionType) -> None:
        """Add a function's code, its defaults, what it encloses, and the globals that it names."""
        names = self._add_bytes_of(function.__code__)
        self.add("defaults", function.__defaults__)
        self.add("keyword defaults", function.__kwdefaults__)
        for index, cell in enumerate(function.__closure__ or ()):
            try:
                self.add(f"closure {index}", cell.cell_contents)
            except ValueError:  # not filled yet
                self._note("closure", index, "empty")
        for name in sorted(names & function.__globals__.keys()):
            self.add(f"global {name}", function.__globals__[name])

    def _add_bytes_of(self, code: types.CodeType) -> set[str]:
        """Add a code object without its file and lines; return the names that it uses."""
        self._note("code", code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
        names = set(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                names |= self._add_bytes_of(constant)
            else:
                self._note("constant", type(constant).__name__, repr(constant))
        return names


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
