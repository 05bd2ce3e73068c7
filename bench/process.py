"""Settings of the process: number of threads, memory allocation, and the signals that stop a run."""

from __future__ import annotations

import ctypes
import io
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
"""Seconds in which a stopped run may end by itself and rebuild its summary; after that the process is ended."""

GO_ON = "stopped; finished cells are kept, and the same command goes on from here"

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals that end a run: Ctrl-C, a scheduler's, and a terminal that is closed."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt in glibc's malloc.h
_KEPT = 2**30 - 1
"""Bytes of free memory at the end of the heap that are kept; more is returned to the system."""
_LARGEST = 2**25
"""Maximum bytes of a tensor that is allocated on the heap; the upper limit of glibc."""


def shorten_waiting() -> None:
    """Let threads that wait for work sleep soon, unless the user has said how they wait; call it before torch is loaded.

    By default a thread of OpenMP spins while it waits, and so holds a core that another process could use: beside one busy
    process a model on two threads took 1.7 times as long (docs/performance.md). Each OpenMP reads its own variable when it
    is loaded; child processes inherit them.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # turns of a loop; GNU's, with which torch is built for Linux
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; LLVM's and Intel's, of other systems and of conda


def use_threads(count: int) -> None:
    """Limit torch and the BLAS of NumPy and SciPy to `count` threads in this process, from now on.

    By default a BLAS uses all cores, which oversubscribes them if there are several processes.
    """
    import torch

    threadpool_limits(count)
    torch.set_num_threads(count)


def print_what_fits() -> None:
    """Let stdout and stderr print ``?`` for what their encoding lacks, as ε in cp1252, or a file name that is not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def keep_freed_memory() -> None:
    """Make the process reuse freed memory, so the activations of each pass are allocated where the previous ones were.

    By default glibc maps new memory for each large tensor, and the kernel fills every page of it with zeros first. Without
    glibc this does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGEST)
            mallopt(_TRIM_THRESHOLD, _KEPT)


class Stopped(KeyboardInterrupt):
    """A run was stopped by a signal; `code` is its exit status. Plugins that catch `Exception` do not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


_stops: list[object] = []
"""One entry for each open context `stoppable`, and one where `expect_no_signals` was called."""


def expect_no_signals() -> None:
    """Take every KeyboardInterrupt in this process for one of a plugin, since another process ends this one."""
    if None not in _stops:
        _stops.append(None)


def asks_to_stop(error: BaseException) -> bool:
    """Check whether an exception is the user's wish to stop, not an error of a plugin.

    Where signals raise `Stopped`, and in a worker process, which ignores them, a plain KeyboardInterrupt is a plugin's.
    """
    if isinstance(error, Stopped):
        return True
    return isinstance(error, KeyboardInterrupt) and not _stops


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `Stopped` inside the context on a signal; if that does not end it in time, end the process with a message.

    The exception may have no effect: a long call of a library does not see it, and a bare ``except:`` of a plugin catches
    it. So a thread waits for the signal as well, which the kernel wakes at once. Records are written atomically, so nothing
    is lost if the process is ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    ended = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        for handled in handlers:  # further signals are ignored
            signal.signal(handled, signal.SIG_IGN)
        raise Stopped(number)

    def watch() -> None:
        while received := receiver.recv(1):
            if received[0] in _SIGNALS and not ended.wait(GRACE):
                print(GO_ON, file=sys.stderr, flush=True)
                os._exit(128 + received[0])

    hang_up = getattr(signal, "SIGHUP", None)
    heeded = [each for each in _SIGNALS if each is not hang_up or signal.getsignal(each) is not signal.SIG_IGN]  # nohup
    handlers = {handled: signal.signal(handled, stop) for handled in heeded}
    earlier = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    _stops.append(thread)
    try:
        yield
    finally:
        _stops.pop()
        ended.set()
        signal.set_wakeup_fd(earlier)
        for handled, handler in handlers.items():
            signal.signal(handled, handler)
        sender.close()
        thread.join()
        receiver.close()
