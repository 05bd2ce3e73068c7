"""Isolation of plugins: their changes to the global state of the process are undone, or detected.

It is a guard against accidents. A plugin runs in this process, so one that wants to cheat always can; docs/protocol.md says
what is promised.
"""

from __future__ import annotations

import copy
import os
import pickle
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from iqarena.bench.errors import UserError, describe
from iqarena.bench.inference.process_state import Namespaces, settings_kept
from iqarena.models.base import QualityModel

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""Messages of torch's RuntimeErrors, in lower case."""


class OutOfMemory(Exception):
    """A cell that ran out of memory, on the CPU or on the device; the message is that of the original error."""


def out_of_memory(error: BaseException) -> bool:
    """Check whether an error reports a lack of memory."""
    by_type = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return by_type or (isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY))


def random_streams() -> dict[str, bytes]:
    """Return the states of the global random streams, by name."""
    states = {"torch": torch.get_rng_state().numpy(), "numpy": np.random.get_state(), "python": random.getstate()}
    return {name: pickle.dumps(state) for name, state in states.items()}


@contextmanager
def streams_kept() -> Iterator[None]:
    """Restore the global random streams when the context ends."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(_gpus()):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def undisturbed() -> Iterator[list[str]]:
    """Put the global state of the process back when the context ends, whatever the plugin inside has done to it.

    Put back without a word are the random streams and the settings of `settings_kept`. What a plugin has no business with
    is put back too, and described in the list that the context gives: the working folder, if it was removed (it is made
    again, empty), and functions, classes and modules that were deleted or replaced, see
    `iqarena.bench.inference.process_state`. Whoever opens the context lets the cell fail for them.

    If the code inside forks and the child process returns, the child is ended here, else it would continue as a second run.
    """
    process, folder = os.getpid(), working_folder()
    found: list[str] = []
    inner = bool(_NAMES)
    names = _NAMES[-1] if inner else Namespaces()  # an inner context compares with the copy of the outer one
    _NAMES.append(names)
    try:
        with settings_kept(), streams_kept():
            yield found
    finally:
        _NAMES.pop()
        changed = names.put_back(near=inner)  # first: all that follows needs functions that may have been deleted
        if os.getpid() != process:
            os._exit(0)
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            found.append(f"it changed {', '.join(changed[:3])}{more} in this process; that was put back")
        if folder is not None and working_folder() != folder:
            existed = folder.is_dir()
            go_to(folder)
            if not existed:
                found.append(f"it removed the working folder {folder}, which was made again, empty")


_NAMES: list[Namespaces] = []
"""The copies of the contexts `undisturbed` that are open."""


def working_folder() -> Path | None:
    """Return the working folder; None if it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return None


def go_to(folder: Path) -> None:
    """Make a folder the working folder; it is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)


class _Asking(threading.local):
    """How many questions of a target a model is answering in this thread."""

    depth = 0


_ASKING = _Asking()


@contextmanager
def through_target() -> Iterator[None]:
    """Mark what happens inside as a question that a target asks and counts, see `watched`."""
    _ASKING.depth += 1
    try:
        yield
    finally:
        _ASKING.depth -= 1


class PastTarget:
    """Questions that an attack put to a model past the target, where it is neither counted nor limited.

    Attributes:
        images: number of images that were scored.
        gradients: whether it asked for their gradient.
    """

    def __init__(self) -> None:
        self.images, self.gradients = 0, False
        self._inside = 0

    @property
    def reason(self) -> str:
        """Describe it in one line; empty if there was nothing."""
        with_gradients = ", and could take their gradients" if self.gradients else ""
        return f"it scored {self.images} images past the target{with_gradients}" if self.images else ""

    def forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the forward function of a module that notes a call which did not come through a target."""

        def noting(*args: Any, **kwargs: Any) -> Any:
            if _ASKING.depth or self._inside or torch._C._current_graph_task_id() != -1:  # -1: no backward pass is running
                return original(*args, **kwargs)
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            self.images += max((len(value) for value in tensors if value.dim()), default=1)
            self.gradients |= torch.is_grad_enabled() and any(value.requires_grad for value in tensors)
            self._inside += 1
            try:
                return original(*args, **kwargs)
            finally:
                self._inside -= 1

        return noting


@contextmanager
def watched(model: nn.Module, past: PastTarget | None = None) -> Iterator[PastTarget]:
    """Note while the context lasts what is asked of a model, or of a module inside it, past the target.

    A backward pass may compute activations again and is not noted, and neither is a scripted module inside. A compiled model
    is not watched, since it would be compiled again.
    """
    past, kept = past or PastTarget(), []
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    if not any(getattr(module, "_compiled_call_impl", None) is not None for module in modules):
        for module in modules:
            kept.append((module, vars(module).get("forward")))
            vars(module)["forward"] = past.forward(module.forward)
    try:
        yield past
    finally:
        for module, forward in kept:
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global random streams inside the context, and restore them when it ends."""
    with torch.random.fork_rng(_gpus()):
        torch.manual_seed(seed)
        yield


def _gpus() -> list[int]:
    """Return the CUDA devices that this process uses, at most one; forking the streams of all is slow and warns."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []


@dataclass(frozen=True)
class ModelState:
    """The parts of a model that must not change: its weights and buffers, its hooks and its info.

    Attributes:
        tensors: for each parameter, buffer and other entry of the state, by name, the shape and a checksum of the bytes.
        passing: names of the buffers that are not saved with the weights.
        hooks: the hooks on its modules.
        infos: the infos of the model and of the models inside.
    """

    tensors: dict[str, tuple[tuple[int, ...], int]]
    passing: frozenset[str]
    hooks: tuple[object, ...]
    infos: tuple[object, ...]

    def changes(self, now: ModelState) -> list[str]:
        """Return what differs in a later state: any of "weights", "hooks" and "info".

        A buffer that is not saved with the weights may come, go and change its shape: models keep in them what depends on
        the size of an image.
        """
        before, after = dict(self.tensors), dict(now.tensors)
        for name in self.passing | now.passing:
            old, new = before.get(name), after.get(name)
            if old is None or new is None or old[0] != new[0]:
                before.pop(name, None)
                after.pop(name, None)
        parts = {"weights": before != after, "hooks": self.hooks != now.hooks, "info": self.infos != now.infos}
        return [part for part, differs in parts.items() if differs]


def model_state(model: nn.Module) -> ModelState:
    """Return the state of a model, by checksums that see every change and the order of the weights.

    CRC-32 of 44 MB takes 6 ms, a seventh of the time of torch's sum of the same bytes, so it can be computed before and
    after every cell.
    """
    saved = model.state_dict()
    buffers = dict(model.named_buffers())
    modules = list(model.modules())
    return ModelState(
        {name: _checksum(value) for name, value in {**buffers, **saved}.items()},
        frozenset(buffers) - frozenset(saved),
        tuple(hook for module in modules for kind in _HOOKS for hook in getattr(module, kind, {}).values()),
        tuple(module.info for module in modules if isinstance(module, QualityModel)),
    )


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _checksum(value: object) -> tuple[tuple[int, ...], int]:
    """Return the shape and the CRC-32 of a tensor's bytes; other entries, as of quantised layers, by their text."""
    if isinstance(value, tuple | list):
        parts = [_checksum(part) for part in value]
        return (len(parts),), zlib.crc32(repr(parts).encode())
    if not isinstance(value, torch.Tensor):
        return (), zlib.crc32(repr(value).encode())
    if value.is_quantized:
        scales = (
            f"{value.qscheme()} {value.q_scale()}" if value.qscheme() == torch.per_tensor_affine else f"{value.qscheme()}"
        )
        return tuple(value.shape), zlib.crc32(scales.encode(), _checksum(value.int_repr())[1])
    # in one order for both memory layouts, since another version of a model may bring its weights into another layout
    flat = value.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
    return tuple(value.shape), zlib.crc32(flat.numpy().data) if flat.numel() else 0


def own_copy(model: QualityModel) -> QualityModel:
    """Return a copy of a model, which the harness may move, freeze and load again.

    Python's deepcopy refuses computed tensors, which weight normalisation and caches of products keep, and things of the
    operating system, such as locks. The copy has the values of such tensors, and shares such things.

    Raises:
        UserError: if the model cannot be copied.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():  # so that the copy of a scripted module has parameters as leaves
            try:
                return copy.deepcopy(model)
            except Exception:
                return copy.deepcopy(model, _kept_as_they_are(model))
    except (Exception, SystemExit) as error:
        raise UserError(
            f"model {model.info.name!r} cannot be copied ({describe(error)}); define __deepcopy__ on its "
            "class, or evaluate it by name: file:path.py:Class"
        ) from None


def _kept_as_they_are(model: nn.Module) -> dict[int, Any]:
    """Return a memo for deepcopy with the attributes of a model's modules that it would refuse."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules") or id(value) in memo:
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                memo[id(value)] = value
    return memo
