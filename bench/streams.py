"""The global random streams, which nothing here may move: looked at, and put back."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def random_streams() -> dict[str, bytes]:
    """Their states, by name."""
    states = {"torch": torch.get_rng_state().numpy(), "numpy": np.random.get_state(), "python": random.getstate()}
    return {name: pickle.dumps(state) for name, state in states.items()}


@contextmanager
def streams_kept() -> Iterator[None]:
    """When the context ends they are as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
