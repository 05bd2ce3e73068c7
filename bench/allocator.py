"""Keeps freed memory for the next tensor, where the C library would hand it back and fetch it anew page by page."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt in glibc's malloc.h
_KEPT = 2**30 - 1
"""Bytes at the end of the heap that stay; what is larger than that goes back."""
_LARGEST = 2**25
"""Bytes of a tensor that comes from the heap; glibc takes no more."""


def keep_freed_memory() -> None:
    """For the process: activations of one pass lie where those of the pass before lay. glibc alone; elsewhere nothing.

    glibc maps what is large anew for each tensor, and the kernel fills every page of it with zeros first.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGEST)
            mallopt(_TRIM_THRESHOLD, _KEPT)
