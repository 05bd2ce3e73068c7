"""Isolation of plugins: their changes to the global state of the process are undone, or detected."""

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
def undisturbed() -> Iterator[None]:
    """Restore global state when the context ends: random streams, default dtype and device, threads, working folder.

    If the code inside forks and the child process returns, the child is ended here, else it would continue as a second run.
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
    """Seed torch's global random streams inside the context, and restore them when it ends."""
    with torch.random.fork_rng(_gpus()):
        torch.manual_seed(seed)
        yield


def _gpus() -> list[int]:
    """Return the CUDA devices that this process uses, at most one; forking the streams of all is slow and warns."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []


def weights_sum(*modules: nn.Module) -> tuple[int, ...]:
    """Compute a checksum of each weight and buffer: the sum of its bits as integers, which any small change alters.

    It is much cheaper than a sha256, so it can be computed before and after every cell.
    """
    return tuple(_bits(value) for module in modules for value in module.state_dict().values())


def _bits(value: torch.Tensor) -> int:
    value = value.detach()
    if value.dim() == 4 and not value.is_contiguous():
        value = value.permute(0, 2, 3, 1)  # makes channels-last tensors contiguous; the order does not matter
    flat = value.contiguous().reshape(-1).view(torch.uint8)
    whole = len(flat) // 4 * 4
    return int(flat[:whole].view(torch.int32).sum(dtype=torch.int64)) + int(flat[whole:].sum(dtype=torch.int64))
