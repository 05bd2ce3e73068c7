"""How many threads this process computes with: torch's, and those of the BLAS behind NumPy and SciPy."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits


def use_threads(count: int) -> None:
    """For the process, from now on. A BLAS takes every core if it is not told, which several processes cannot all have."""
    threadpool_limits(count)
    torch.set_num_threads(count)
