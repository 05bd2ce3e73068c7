"""Settings of the process itself: threads, freed memory, and the signals that end a run."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from threadpoolctl import threadpool_limits

GRACE = 4.0
"""Seconds in which a run may end by itself, with its summary rebuilt; then the process ends as it is."""

GO_ON = "stopped; finished cells are kept, and the same command goes on from here"

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt in glibc's malloc.h
_KEPT = 2**30 - 1
"""Bytes at the end of the heap that stay; what is larger than that goes back."""
_LARGEST = 2**25
"""Bytes of a tensor that comes from the heap; glibc takes no more."""


def use_threads(count: int) -> None:
    """Limit torch and the BLAS behind NumPy and SciPy to `count` threads in this process, from now on.

    A BLAS takes every core if it is not told, which several processes cannot all have.
    """
    import torch

    threadpool_limits(count)
    torch.set_num_threads(count)


def keep_freed_memory() -> None:
    """For the process: activations of one pass lie where those of the pass before lay. glibc alone; elsewhere nothing.

    glibc maps what is large anew for each tensor, and the kernel fills every page of it with zeros first.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGEST)
            mallopt(_TRIM_THRESHOLD, _KEPT)


class Stopped(KeyboardInterrupt):
    """A run that was told to end; `code` is its exit status. No plugin takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """A signal raises `Stopped` inside; where that does not end it in time, the process ends with the same words.

    It may not: a library's long call gets no exception, and a bare ``except:`` of a plugin swallows it. So a thread listens
    too, which the kernel wakes at once. Records are whole or not there, so nothing is lost by so hard an end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told, tell = socket.socketpair()
    tell.setblocking(False)
    ended = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:  # once is enough
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    def watch() -> None:
        while heard := told.recv(1):
            if heard[0] in _SIGNALS and not ended.wait(GRACE):
                print(GO_ON, file=sys.stderr, flush=True)
                os._exit(128 + heard[0])

    before = {each: signal.signal(each, stop) for each in _SIGNALS}
    earlier = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(earlier)
        for each, handler in before.items():
            signal.signal(each, handler)
        tell.close()
        thread.join()
        told.close()
