"""Keeps what plugins do to themselves: what they change for the whole process is put back, or noticed."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""What torch's own RuntimeErrors say, in lower case."""


class OutOfMemory(Exception):
    """A cell that ran out of memory, of this process's or of the device's; the message is the error's."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short."""
    short = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return short or (isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY))


def random_streams() -> dict[str, bytes]:
    """The states of the global random streams, by name."""
    states = {"torch": torch.get_rng_state().numpy(), "numpy": np.random.get_state(), "python": random.getstate()}
    return {name: pickle.dumps(state) for name, state in states.items()}


@contextmanager
def streams_kept() -> Iterator[None]:
    """When the context ends, the global random streams are as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(_gpus()):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Puts back what code inside may have changed: random streams, default dtype and device, threads, working folder.

    Where that code forks and lets the child come back, the child ends here: it would go on as a second run.
    """
    process, folder = os.getpid(), Path.cwd()
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    try:
        with streams_kept():
            yield
    finally:
        if os.getpid() != process:
            os._exit(0)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if Path.cwd() != folder:
            os.chdir(folder)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global streams start from a seed inside, and go on outside as if nothing had been drawn."""
    with torch.random.fork_rng(_gpus()):
        torch.manual_seed(seed)
        yield


def _gpus() -> list[int]:
    """The CUDA devices that this process uses: one, if any. Asking torch for all of them is slow and ends in a warning."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []


def weights_sum(*modules: nn.Module) -> tuple[int, ...]:
    """A number for each weight and buffer: the sum of its bits as integers, which any small change changes.

    Cheaper than a sha256 by far, so that it can be asked for before and after every cell.
    """
    return tuple(_bits(value) for module in modules for value in module.state_dict().values())


def _bits(value: torch.Tensor) -> int:
    value = value.detach()
    if value.dim() == 4 and not value.is_contiguous():
        value = value.permute(0, 2, 3, 1)  # channels last is contiguous so, and the order does not matter
    flat = value.contiguous().reshape(-1).view(torch.uint8)
    whole = len(flat) // 4 * 4
    return int(flat[:whole].view(torch.int32).sum(dtype=torch.int64)) + int(flat[whole:].sum(dtype=torch.int64))
